"""Only there to be imported: nothing here is used on a device."""

from numpy.fft import *  # noqa: F403
