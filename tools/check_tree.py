"""The checks of `make lint` that no linter has: sizes, banned calls, and machine paths or hosts in tracked files.

Run it from the root, `python tools/check_tree.py`: it prints the sizes, then every finding; exit status 1 if any.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
CODE_FOLDERS = ("budwood", "tests", "tools", "benchmarks", "examples")
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}

BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
BANNED_CALLS = {"eval", "exec", "torch.load", "numpy.load", "np.load", "os.system", "os.popen"}
BANNED_ARGUMENTS = {"trust_remote_code", "allow_pickle", "shell"}

MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|tmp|home|Users|opt)/[\w.-]+")
URL = re.compile(r"\b(?:https?|git|ssh|file)://([^\s/:'\"`<>)\]}]*)")
PUBLIC_HOSTS = {
    *("", "127.0.0.1", "localhost", "[::1]", "test", "testserver", "server", "evil"),
    *("github.com", "pypi.org", "huggingface.co", "www.apache.org", "opensource.org"),
    *(
        "keepachangelog.com",
        "semver.org",
        "json-schema.org",
        "www.w3.org",
        "arxiv.org",
        "doi.org",
        "www.rfc-editor.org",
    ),
    *(
        "docs.python.org",
        "onnxruntime.ai",
        "creativecommons.org",
        "purl.org",
        "matplotlib.org",
        "no-color.org",
        "spec.openapis.org",
        "htmx.org",
    ),
}
EXAMPLE_HOST = re.compile(r"(?:^|\.)(?:example|invalid|test|localhost|example\.(?:com|org|net))$|[{$%]")
TEXT_SUFFIXES = (
    *(".py", ".toml", ".md", ".txt", ".csv", ".json", ".jsonl", ".html", ".css", ".js", ".svg", ".sh", ".yml", ".yaml"),
    *("", ".typed", ".cfg", ".ini"),
)


def main() -> int:
    tracked = git_files()
    code = [path for path in tracked if path.suffix == ".py" and path.parts[0] in CODE_FOLDERS]
    problems = [*sizes(code), *banned(code), *foreign(tracked)]
    for problem in problems:
        print(problem)
    print(f"check_tree: {len(tracked)} tracked files, {len(problems)} findings")
    return 1 if problems else 0


def git_files() -> list[Path]:
    """Tracked files and new ones that git does not ignore, so that a finding shows before the commit."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [path for name in sorted(names.split("\0")) if name and (path := Path(name)).is_file()]


def sizes(code: list[Path]) -> Iterator[str]:
    """Too long files and functions; prints lines, functions and tokens per line, so that nobody golfs."""
    print(
        f"{'folder':<12}{'files':>6}{'lines':>8}{'longest':>9}{'functions':>11}{'median':>8}{'longest':>9}{'tokens/line':>13}"
    )
    for folder in CODE_FOLDERS:
        paths = [path for path in code if path.parts[0] == folder]
        if not paths:
            continue
        lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
        functions = [(path, *item) for path in paths for item in function_lines(path)]
        lengths = sorted(length for _, _, _, length in functions) or [0]
        density = tokens_per_line(paths)
        print(
            f"{folder:<12}{len(paths):>6}{sum(lines.values()):>8}{max(lines.values()):>9}"
            f"{len(functions):>11}{lengths[len(lengths) // 2]:>8}{lengths[-1]:>9}{density:>13.1f}"
        )
        for path, count in lines.items():
            if count > MAX_FILE_LINES:
                yield f"{path}:1: {count} lines, at most {MAX_FILE_LINES}: split it by concept"
        for path, name, line, count in functions:
            if count > MAX_FUNCTION_LINES:
                yield f"{path}:{line}: {name} has {count} lines, at most {MAX_FUNCTION_LINES}: give a part a name"


def function_lines(path: Path) -> Iterator[tuple[str, int, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1


def tokens_per_line(paths: list[Path]) -> float:
    """Tokens per line that has any; docstrings count as one token."""
    count, lines = 0, 0
    for path in paths:
        reader = io.BytesIO(path.read_bytes()).readline
        found = [token for token in tokenize.tokenize(reader) if token.type not in LAYOUT]
        count += len(found)
        lines += len({token.start[0] for token in found})
    return count / max(lines, 1)


def banned(code: list[Path]) -> Iterator[str]:
    """Loaders that can run code, and calls that do, anywhere in the package. Tests may make such files."""
    for path in code:
        if path.parts[0] != "budwood":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for what in dangers(node):
                yield f"{path}:{getattr(node, 'lineno', 1)}: {what} is not allowed in budwood/"


def dangers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"import {item.name}" for item in node.names if item.name.split(".")[0] in BANNED_MODULES)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in BANNED_MODULES:
        yield f"from {node.module} import"
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        # Weights alone, without pickled objects, may be read: there is a package that ships no other format.
        harmless = name == "torch.load" and any(
            item.arg == "weights_only" and is_true(item.value) for item in node.keywords
        )
        if name in BANNED_CALLS and not harmless:
            yield f"{name}()"
        for keyword in node.keywords:
            if keyword.arg in BANNED_ARGUMENTS and not is_false(keyword.value):
                yield f"{name}({keyword.arg}={ast.unparse(keyword.value)})"


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def foreign(tracked: list[Path]) -> Iterator[str]:
    """Paths of one machine and hosts that are not public, in any tracked text."""
    for path in tracked:
        if path.suffix not in TEXT_SUFFIXES or path == Path("tools/check_tree.py"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            for match in MACHINE_PATH.finditer(line):
                yield f"{path}:{number}: {match.group()} is a path of one machine"
            for host in URL.findall(line.replace("\\", "")):
                if host not in PUBLIC_HOSTS and not EXAMPLE_HOST.search(host):
                    yield f"{path}:{number}: {host} is not on the list of public hosts in tools/check_tree.py"


if __name__ == "__main__":
    sys.exit(main())
