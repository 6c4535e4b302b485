"""Check the first words of docstrings, and private nouns in docstrings and comments: ``python .ci/docstrings.py``.

Write for a reader whose second language is English. A docstring begins with a verb ("Return", "Sum") or with the kind
of thing it describes ("Cache of", "Index of"). Its sentences have concrete subjects, so none begins with a word that
stands for something else ("What is given ...", "Those of ..."). A description under Parameters or Attributes may begin
with "Whether", as numpydoc has it.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDERS = ("bnspec", "backends", "conformance")

#: Words that begin no docstring.
FIRST = frozenset(
    "what whatever whether how who whom whose where when which why those these this that it they there nothing".split()
)
#: Words that begin no sentence of one.
SENTENCE = frozenset(("What", "Whether", "Those", "It", "Who", "Whom"))
#: Private nouns, each with the word of the field.
NOUNS = {
    r"gangs?": "thread team",
    r"mail(s|ed|box|boxes)?": "control block",
    r"hubs?": "rendezvous",
}
#: The same in some folders only: elsewhere the word has its plain meaning.
NOUNS_IN = {("bnspec", "backends"): {r"the seed(?!\w| of)": "tensorpack"}}

_DESCRIBED = re.compile(r"\s*[*\w`][\w`*, ./]*( : .*)?$")
_SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[A-Z`\"(\[])")


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every docstring."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            first = node.body[0]
            assert isinstance(first, ast.Expr)
            assert isinstance(first.value, ast.Constant)
            yield first.lineno, str(first.value.value)


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every comment."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("#: ")


def sentences(docstring: str) -> Iterator[tuple[int, str, bool]]:
    """Yield each sentence after the first with its line and whether it begins the description of a parameter."""
    blocks: list[tuple[list[tuple[int, str]], bool]] = [([], False)]
    literal = example = False
    before, indent_before = "", 0
    for number, line in enumerate(docstring.splitlines()):
        indent = len(line) - len(line.lstrip())
        if literal and (not line.strip() or indent > indent_before):
            continue
        if not line.strip():
            literal, example = before.endswith("::"), False
            blocks.append(([], False))
            before = before if literal else ""
            continue
        literal, example = False, example or line.lstrip().startswith(">>>")
        described = bool(before) and indent > indent_before and number > 0 and bool(_DESCRIBED.match(before))
        if described or indent < indent_before:
            blocks.append(([], described))
        if not example:
            blocks[-1][0].append((number, line.strip()))
        before, indent_before = line.rstrip(), indent if number else 0
    for lines, describes in blocks:
        text = " ".join(line for _, line in lines)
        offset = 0
        for i, sentence in enumerate(_SENTENCE_END.split(text)):
            at, seen = lines[0][0] if lines else 0, 0
            for number, line in lines:
                if seen <= offset:
                    at = number
                seen += len(line) + 1
            offset += len(sentence) + 1
            if sentence and (at, i) != (0, 0):
                yield at, sentence, describes and i == 0


def problems(text: str, folder: str = "") -> list[tuple[int, str]]:
    """Return what the rules find wrong with a module, as lines and texts.

    Parameters
    ----------
    text : str
        Source of the module.
    folder : str
        One of `FOLDERS`; some words are private nouns in some of them only.
    """
    found = []
    nouns = dict(NOUNS)
    for folders, more in NOUNS_IN.items():
        nouns |= more if folder in folders else {}
    texts = list(docstrings(ast.parse(text)))
    for line, docstring in texts:
        word = re.match(r"[\W_]*(\w*)", docstring)
        first = word.group(1) if word else ""
        if first.lower() in FIRST:
            found.append((line, f"docstring begins with {first!r}; expected a verb or the kind of thing"))
        for offset, sentence, describes in sentences(docstring):
            begins = re.split(r"\W", sentence, maxsplit=1)[0]
            if begins in SENTENCE and not (describes and begins == "Whether"):
                found.append((line + offset, f"sentence begins with {begins!r}; expected a concrete subject"))
    for line, words in [*texts, *comments(text)]:
        for noun, instead in nouns.items():
            for match in re.finditer(rf"(?<![\w.`]){noun}(?![\w`(])", words, re.IGNORECASE):
                at = line + words.count("\n", 0, match.start())
                found.append((at, f"{match.group()!r} is a private noun; expected {instead!r}"))
    return sorted(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the files or folders that are named, by default the three packages; return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description="Check the first words of docstrings, and private nouns.")
    parser.add_argument("paths", nargs="*", default=list(FOLDERS), metavar="PATH")
    wrong = 0
    for name in parser.parse_args(arguments).paths:
        path = Path(name)
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for line, problem in problems(file.read_text(encoding="utf-8"), file.parts[0]):
                print(f"{file}:{line}: {problem}")
                wrong += 1
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
