"""Names of files that other files give stay inside their folder."""

import pytest

from keras_dlrm.files.places import inside

pytestmark = pytest.mark.neutral


def test_names_inside_are_taken(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "log").symlink_to("real")
    (tmp_path / "real" / "link").symlink_to("train")
    for name in ("a.npy", "train/a.npy", "..a", "a..b/c", "link/a.npy", "./a"):
        assert inside(tmp_path / "log", name, "manifest.json") == tmp_path / "log" / name


def test_names_that_lead_out_are_refused(tmp_path):
    folder = tmp_path / "log"
    (folder / "train").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path)
    (folder / "file").symlink_to("../secret")
    (tmp_path / "log-of-others").mkdir()
    for name in (
        "../secret", "train/../../secret", "..", ".", "", "/etc/passwd", str(folder / "a.npy"), "out/secret", "file",
        "../log-of-others/a", "a\0b", None, 3, ["a"],
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"manifest.json names the file .*not inside"):
            inside(folder, name, "manifest.json")
