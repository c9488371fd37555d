"""What suite2p finds in a movie: run by `cells.py` in an environment of suite2p's own (`pip install suite2p`, 1.1.0).

    python suite2p_rois.py movie.tif rois.npz [--register]

Writes the footprints of all regions, which of them its classifier calls cells, and their traces without neuropil.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import suite2p


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("movie", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--register", action="store_true", help="correct motion first, rigidly")
    parser.add_argument("--diameter", type=float, default=7.0)
    given = parser.parse_args()
    settings = suite2p.default_settings()
    settings |= {"fs": 10.0, "tau": 0.6, "diameter": [given.diameter, given.diameter], "torch_device": "cpu"}
    settings["run"] |= {"do_registration": int(given.register), "do_deconvolution": False, "do_regmetrics": False}
    settings["registration"]["nonrigid"] = False
    with tempfile.TemporaryDirectory() as folder:
        db = suite2p.default_db() | {"data_path": [str(given.movie.parent)], "file_list": [given.movie.name]}
        suite2p.run_s2p(db=db | {"save_path0": folder}, settings=settings)
        plane = Path(folder) / "suite2p" / "plane0"
        traces, neuropil, is_cell = (np.load(plane / f"{name}.npy") for name in ("F", "Fneu", "iscell"))
        regions = np.load(plane / "stat.npy", allow_pickle=True)  # we have just written it
        footprints = np.zeros((len(regions), *np.load(plane / "ops.npy", allow_pickle=True).item()["meanImg"].shape))
    for footprint, region in zip(footprints, regions, strict=True):
        footprint[region["ypix"], region["xpix"]] = region["lam"]
    clean = traces - settings["extraction"]["neuropil_coefficient"] * neuropil
    np.savez(given.out, footprints=footprints, is_cell=is_cell[:, 0] > 0, traces=clean.T)


if __name__ == "__main__":
    main()
