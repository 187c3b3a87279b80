"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicnn.base.errors import MinicnnError
from minicnn.base.files import written_whole


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [OSError(28, "full"), KeyboardInterrupt()])
def test_what_is_unfinished_leaves_no_trace(
    tmp_path: Path, failure: BaseException
) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    refused = MinicnnError if isinstance(failure, OSError) else KeyboardInterrupt

    def write() -> None:
        with written_whole(path, "; mend it") as temporary:
            temporary.write_text("new")
            raise failure

    with pytest.raises(refused) as caught:
        write()
    if refused is MinicnnError:
        said = f"{path}: cannot be written (No space left on device); mend it"
        assert str(caught.value) == said
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_begun_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(MinicnnError, match="is a folder"), written_whole(tmp_path):
        pytest.fail("begun")
