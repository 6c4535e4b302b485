"""bnspec as torch's machinery sees it: nodes of its graph, operators of its recorders; imported where torch is."""

__all__: list[str] = []
