"""Three days of rows in the files of MLPerf, of the reference and of TorchRec."""

import numpy as np

import keras_dlrm as kd

SIZES = [50 + 7 * i for i in range(26)]
ROWS = [30, 17, 25]  # of three days


def day(rows, seed, sizes=SIZES):
    random = np.random.default_rng(seed)
    return {
        "y": random.integers(0, 2, rows).astype(np.int32),
        "X_int": random.integers(0, 1000, (rows, 13)).astype(np.int32),
        "X_cat": np.stack([random.integers(0, n, rows) for n in sizes], axis=1).astype(np.int32),
    }


DAYS = [day(rows, seed) for seed, rows in enumerate(ROWS)]


def joined(days, start=0, stop=None):
    return {name: np.concatenate([d[name] for d in days])[start:stop] for name in ("y", "X_int", "X_cat")}


HALF = 13
CLASSIC = {"train": joined(DAYS[:2]), "test": joined(DAYS[2:], 0, HALF), "valid": joined(DAYS[2:], HALF)}
TORCHREC = {"train": joined(DAYS[:2]), "valid": joined(DAYS[2:], 0, HALF), "test": joined(DAYS[2:], HALF)}


def record(part):
    return np.concatenate([part["y"][:, None], part["X_int"], part["X_cat"]], axis=1).astype("<i4")


def mlperf(folder):
    for name, part in CLASSIC.items():
        (folder / f"{'val' if name == 'valid' else name}_data.bin").write_bytes(record(part).tobytes())
    np.savez_compressed(folder / "day_fea_count.npz", counts=np.array(SIZES, np.int32))
    return kd.data.mlperf.open(folder)


def by_day(folder, save=np.savez_compressed, order="C", dtype=np.int32):
    for number, d in enumerate(DAYS):
        cat = np.asarray(d["X_cat"], dtype, order=order)
        save(folder / f"day_{number}_reordered.npz", X_cat=cat, X_int=d["X_int"], y=d["y"])
    np.savez_compressed(folder / "day_fea_count.npz", counts=np.array(SIZES, np.int32))
    return kd.data.reference.open(folder)


def single(folder):
    whole = joined(DAYS)
    # As the reference leaves it: ids column-major and as float64.
    whole["X_cat"] = np.asfortranarray(whole["X_cat"], np.float64)
    path = folder / "kaggleAdDisplayChallenge_processed.npz"
    np.savez_compressed(path, **whole, counts=np.array(SIZES, np.int32))
    np.savez_compressed(folder / "train_day_count.npz", total_per_file=np.array(ROWS))
    return kd.data.reference.open(path)


def npy(folder, sizes=SIZES):
    for number, d in enumerate(DAYS):
        np.save(folder / f"day_{number}_dense.npy", d["X_int"].astype(np.float32) / 7)
        np.save(folder / f"day_{number}_sparse.npy", d["X_cat"] * 3)
        np.save(folder / f"day_{number}_labels.npy", d["y"][:, None])
    return kd.data.torchrec.open(folder, sizes)
