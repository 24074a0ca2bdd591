"""Which files a run judges together: all at once, but those on which a run died before are tried apart from others.

So a file that kills the process is found by itself: files on which a run died are tried in groups, each noted in
`ops/state.json` before, until the bad one is alone; when three runs have died of it alone, it is rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from kpi_common.contracts import Dataset
from spark_app.errors import AppError
from spark_app.run.files import InputFile
from spark_app.run.state import LakeState, StateFile, TrialGroup

_PARTS = 8  # into which files are divided that a run died of: 5,000 take five runs, and each run at most eight rounds
_DEATHS_ALONE = 3
_UNPACKED = 8  # times as large as gzip
_FULL_DISK = ("No space left on device", "Disk quota exceeded")


@dataclass(frozen=True)
class Batch:
    """Files that are judged together."""

    files: tuple[InputFile, ...]
    group: TrialGroup

    @property
    def unpacked_bytes(self) -> int:
        """About how many bytes of text they hold."""
        return sum(file.size * (_UNPACKED if file.compressed else 1) for file in self.files)

    @property
    def condemned(self) -> bool:
        """Whether this is one file of which runs died by itself, so that it must be rejected without a look."""
        return self.group.deaths >= _DEATHS_ALONE


def plan_batches(files: Sequence[InputFile], state: LakeState) -> list[Batch]:
    """Divide files into batches: songs and users under suspicion, all that are under none, streams under suspicion.

    A file whose content is another one than when a run died is under no suspicion.
    """
    by_name = {file.name: file for file in files}
    suspects = []
    for group in [*_divided(state.judging), *state.suspects]:
        same = {n: content for n, content in group.files.items() if n in by_name and _content(by_name[n]) == content}
        if same:
            suspects.append(Batch(tuple(by_name.pop(name) for name in same), replace(group, files=same)))
    others = tuple(by_name.values())
    batches = [Batch(others, _group(others))] if others else []
    before = [batch for batch in suspects if any(file.dataset is not Dataset.STREAMS for file in batch.files)]
    return [*before, *batches, *(batch for batch in suspects if batch not in before)]


@contextmanager
def note_trial(state: StateFile, batch: Batch, later: Iterable[Batch]) -> Iterator[None]:
    """Note which files are being judged, and which are still to be tried; the note stays if the run dies of them."""
    before = state.value
    state.save("judge", judging=batch.group, suspects=tuple(other.group for other in later))
    try:
        yield
    except BaseException as error:
        if _no_files_fault(error):
            with suppress(AppError):  # the lake or its lock is lost
                state.save("judged", judging=before.judging, suspects=before.suspects)
        raise


def _no_files_fault(error: BaseException) -> bool:
    """Whether it is an error with a code of its own, a stop by hand or by the platform, or a full disk."""
    return isinstance(error, AppError | KeyboardInterrupt) or any(sign in str(error) for sign in _FULL_DISK)


def _divided(group: TrialGroup | None) -> list[TrialGroup]:
    """Return a group that a run died of in parts; one file by itself has one death more."""
    if group is None:
        return []
    if len(group.files) == 1:
        return [replace(group, deaths=group.deaths + 1)]
    names = list(group.files)
    size = -(-len(names) // _PARTS)
    parts = (names[start : start + size] for start in range(0, len(names), size))
    return [TrialGroup({name: group.files[name] for name in part}) for part in parts]


def _group(files: Iterable[InputFile]) -> TrialGroup:
    return TrialGroup({file.name: _content(file) for file in files})


def _content(file: InputFile) -> str:
    """What changes with a file's content, and is known before it is read."""
    return file.stat or file.etag or ""
