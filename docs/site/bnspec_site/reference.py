"""Pages of the reference: which public names there are, and where each is described.

Names are read from the sources, so that a module of a framework that is not installed has its page too. A new public
name is on a page or, where it belongs to no section of ``bnspec``, stops the build.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["INDEX", "ReferencePage", "index", "public_names", "reference_pages"]

INDEX = "reference/index.md"

#: Sections of the package `bnspec`, each a page: file name, title and names.
SECTIONS = (
    ("functions", "Functions", "init batch_norm batch_norm_inference apply batch_norm_vjp batch_norm_jvp "
     "batch_norm_tangents moments merge update_running running_statistics"),
    ("configuration", "Configuration and dialects", "BatchNormConfig Renorm Schedule Dialect dialects"),
    ("records", "Records of arrays", "Params RunningState Moments Groups Saved Normalized Gradients Tangents Array"),
    ("layers", "Layers", "BatchNorm BatchRenorm TrainingContext training_context current_context recompute "
     "UpdateCollection"),
    ("models", "Moving and finishing a model", "convert fold Affine fold_into_preceding fold_into_following "
     "FoldedKernel PreciseStatistics"),
    ("backends", "Backends and ranks", "Backend Kernels get_backend known_backends kernels_for use_kernels "
     "Communicator Signature get_communicator __version__"),
    ("errors", "Errors and warnings", "refusal CommunicatorError CollectiveMismatch CollectiveTimeout "
     "ConversionWarning FrozenStatisticsWarning UntrainedParametersWarning"),
)  # fmt: skip
#: Classes that are no public names, by the module whose docstrings leave the description of options to them.
SHARED = {
    "bnspec.torch": (
        "bnspec_backends.modules.torch.specified.SpecifiedNorm", "bnspec_backends.modules.torch.options.Options",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ReferencePage:
    """One page of the reference.

    Attributes
    ----------
    uri : str
        Path in the site.
    title : str
    module : str
        The module that has the names.
    names : tuple of str
        Full names, in the order of the page.
    """

    uri: str
    title: str
    module: str
    names: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules whose names are mentioned on this page without the module."""
        return tuple(dict.fromkeys((self.module, *(name.rpartition(".")[0] for name in self.names))))

    @property
    def text(self) -> str:
        """Markdown, in which mkdocstrings puts each name's docstring."""
        about = f"Names of `{self.module}`." if self.module != "bnspec" else "Names of the package `bnspec`."
        return "\n\n".join([f"# {self.title}", about, *(f"::: {name}" for name in self.names)]) + "\n"


def reference_pages(root: Path) -> list[ReferencePage]:
    """Return the pages of every public name of a source tree.

    Raises
    ------
    ValueError
        For a public name of `bnspec` that is in no section, and for a name of a section that is not public.
    """
    ours = exported(root / "bnspec" / "__init__.py")
    placed = [name for _, _, names in SECTIONS for name in names.split()]
    if sorted(placed) != sorted(ours):
        raise ValueError(f"names in a section of the reference or in bnspec.__all__ alone: {set(placed) ^ set(ours)}")
    pages = [
        ReferencePage(f"reference/{name}.md", title, "bnspec", tuple(f"bnspec.{n}" for n in names.split()))
        for name, title, names in SECTIONS
    ]
    for module, path in _modules(root):
        names = (*_full_names(module, path), *SHARED.get(module, ()))
        pages.append(ReferencePage(f"reference/{module}.md", f"`{module}`", module, names))
    return pages


def public_names(root: Path) -> list[str]:
    """Return the full name of everything that a reader of the reference looks for."""
    return [name for page in reference_pages(root) for name in page.names]


def index(pages: list[ReferencePage]) -> str:
    """Return the page that lists every name."""
    lines = [
        "# Reference",
        "",
        "Every public name, from its docstring. Names that begin with an underscore are private.",
        "",
    ]
    for page in pages:
        link = page.uri.removeprefix("reference/")
        lines += [f"## [{page.title}]({link})", ""]
        lines += [f"- [`{name}`]({link}#{name})" for name in page.names]
        lines.append("")
    return "\n".join(lines)


def exported(path: Path) -> list[str]:
    """Return ``__all__`` of a module, without importing it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return []


def _modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and file of every other public module that has names."""
    backends, conformance = root / "backends", root / "conformance"
    for base, pattern in (
        (root, "bnspec/[!_]*.py"),
        (backends, "bnspec_backends/arrays/[!_]*.py"),
        (backends, "bnspec_backends/*/__init__.py"),
        (conformance, "bnspec_conformance/__init__.py"),
    ):
        for path in sorted(base.glob(pattern)):
            if exported(path):
                yield ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"), path


def _full_names(module: str, path: Path) -> Iterator[str]:
    """Yield the names of a module; those of a module that is itself one of them follow it."""
    for name in exported(path):
        yield f"{module}.{name}"
        inner = path.parent / f"{name}.py"
        if path.name == "__init__.py" and inner.exists() and not _binds(path, name):
            yield from (f"{module}.{name}.{n}" for n in exported(inner))


def _binds(path: Path, name: str) -> bool:
    """Return whether a package imports an object of a submodule's name from that submodule."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(
        isinstance(node, ast.ImportFrom)
        and str(node.module).endswith(f".{name}")
        and name in [a.name for a in node.names]
        for node in ast.walk(tree)
    )
