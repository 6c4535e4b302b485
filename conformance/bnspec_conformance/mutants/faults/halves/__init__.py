"""Wrong implementations that are right but where two options meet, or in one half of what a clause joins."""
