"""What the place of a file says about it: ``train/cat/1.png`` is a cat to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fleetfoot.errors import DataError
from zoo.readers.faults import listed
from zoo.readers.reading import Arrangement, Found
from zoo.readers.store import Example

LEARNING_FOLDERS = frozenset({"train", "training", "val", "valid", "validation"})
TEST_FOLDERS = frozenset({"test", "testing"})

_Parts = tuple[str, ...]


def by_folder(name: str, found: Found) -> Arrangement:
    """Takes a folder per class; these may be in folders such as ``train/`` and ``test/``.

    Where everything lies in one more folder around that, as archives often have it, that one means nothing.

    Args:
        name: the dataset's, for errors.
        found: the files and folders.

    Returns:
        An example for each file, in the same order, and the faults of those that are in no class folder.

    Raises:
        DataError: a class folder has no file that counts.
    """
    file_parts = {path: tuple(path.split("/")) for path in found.files}
    folder_parts = [tuple(path.rstrip("/").split("/")) for path in found.folders]
    depth = _outer_folders(list(file_parts.values()), folder_parts)
    inner = {path: parts[depth:] for path, parts in file_parts.items()}
    divided = any(len(parts) > 2 and _is_split(parts[0]) for parts in inner.values())
    _require_full(name, inner.values(), [parts[depth:] for parts in folder_parts], divided)
    examples: list[Example] = []
    faults: dict[str, str] = {}
    for path, parts in inner.items():
        if divided and not _is_split(parts[0]):
            faults[path] = "beside the folders for training and testing"
        elif len(parts) < 2 + divided:
            faults[path] = "in no class folder"
        else:
            examples.append(Example(path, parts[divided], test=divided and parts[0].lower() in TEST_FOLDERS))
    return Arrangement(examples, faults)


def _outer_folders(files: Sequence[_Parts], folders: Sequence[_Parts]) -> int:
    """How many folders are around everything: each is alone, and there are class folders below it."""
    depth = 0
    while files and all(len(parts) >= depth + 3 for parts in files):
        names = {parts[depth] for parts in (*files, *folders) if len(parts) > depth}
        if len(names) > 1 or _is_split(names.pop()):
            break
        depth += 1
    return depth


def _is_split(folder: str) -> bool:
    return folder.lower() in LEARNING_FOLDERS | TEST_FOLDERS


def _require_full(name: str, files: Iterable[_Parts], folders: Iterable[_Parts], divided: bool) -> None:
    filled = {parts[: divided + 1] for parts in files}
    classes = {parts for parts in folders if len(parts) == divided + 1 and (_is_split(parts[0]) or not divided)}
    if empty := sorted("/".join(parts) for parts in classes - filled):
        raise DataError(f"{name}: nothing to read in {listed(empty)}: a class folder needs examples, or has to go")
