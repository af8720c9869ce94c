"""Archives, sealed files and manifests: a flipped bit is named, or changes nothing that is read."""

import json

import numpy as np
import pytest

from keras_dlrm.files.checksums import OPEN_SEAL, check_archive, check_seal, seal, sealed
from keras_dlrm.files.inventory import FORMAT, MANIFEST, VERSION, check_version, inventory

pytestmark = pytest.mark.neutral


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_flipped_bit_of_an_archive_is_named_or_changes_no_member(tmp_path, write):
    path = tmp_path / "a.npz"
    arrays = {"place": np.arange(9), "v0": np.linspace(0, 1, 7)}
    write(path, **arrays)
    check_archive(path, ["place.npy", "v0.npy"])
    whole, found = path.read_bytes(), 0
    bits = np.random.default_rng(0).choice(8 * len(whole), 120, replace=False)
    for bit in bits.tolist():
        path.write_bytes(flipped(whole, bit))
        try:
            check_archive(path, ["place.npy", "v0.npy"])
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged")
            found += 1
            continue
        with np.load(path, allow_pickle=False) as members:  # a date, or rights that nobody looks at
            assert all((members[name] == array).all() for name, array in arrays.items())
    assert found > 60


def test_what_is_no_archive_or_lacks_a_member_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(1))
    with pytest.raises(ValueError, match=r"a.npz is damaged, or only a part of it \(it has no config.json\)"):
        check_archive(tmp_path / "a.npz", ["config.json"])
    with pytest.raises(FileNotFoundError):
        check_archive(tmp_path / "absent.keras")
    for content in (b"", b"PK", (tmp_path / "a.npz").read_bytes()[:-30]):
        (tmp_path / "b.keras").write_bytes(content)
        with pytest.raises(ValueError, match="b.keras is damaged"):
            check_archive(tmp_path / "b.keras")


def test_each_bit_of_a_sealed_file_counts(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"weights " + OPEN_SEAL.encode() + b" end")
    seal(path)
    assert check_seal(path)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        path.write_bytes(flipped(whole, bit))
        try:
            assert not check_seal(path), bit  # the mark itself: the file has no checksum then
        except ValueError as error:
            assert "model.tflite is damaged" in str(error)
    for content in (b"", b"of another program"):
        path.write_bytes(content)
        assert not check_seal(path)
    with pytest.raises(RuntimeError, match="no place for its checksum"):
        seal(path)


def test_each_bit_of_a_published_manifest_counts_and_other_programs_have_their_own(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    path = tmp_path / MANIFEST
    path.parent.mkdir()
    manifest = {"format": FORMAT, "version": VERSION, "files": inventory(tmp_path, ["saved_model.pb"])}
    path.write_text(json.dumps(sealed(manifest)))
    assert check_version(tmp_path) == manifest
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        path.write_bytes(flipped(whole, bit))
        with pytest.raises(ValueError, match="manifest.json"):
            check_version(tmp_path)
    path.write_text('{"name": "of another program"}')
    assert check_version(tmp_path) is None
