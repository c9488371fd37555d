"""Movies in a format of your own: anything with a shape, a dtype and `read(start, stop)` is a movie."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from larscope import Run, Session, simulate_session


@dataclass
class RawMovie:
    """Frames one after the other, 16 bits a pixel, without a header."""

    path: Path
    height: int
    width: int
    dtype = np.dtype(np.uint16)

    @property
    def shape(self):
        return self.path.stat().st_size // (2 * self.height * self.width), self.height, self.width

    def read(self, start, stop):
        pixels = self.height * self.width
        frames = np.fromfile(self.path, self.dtype, (stop - start) * pixels, offset=2 * start * pixels)
        return frames.reshape(-1, self.height, self.width)


with TemporaryDirectory() as name:
    for run in simulate_session(n_runs=2, n_frames=300, frame_shape=(96, 64), seed=1):  # what a camera would write
        run.read(0, run.n_frames).astype(np.uint16).tofile(Path(name) / f"{run.condition}.raw")
    movies = {path.stem: RawMovie(path, 96, 64) for path in sorted(Path(name).glob("*.raw"))}
    session = Session(tuple(Run(name, condition=name, movie=movie) for name, movie in movies.items()), simulated=True)
    # and from here as always: LatentVAR().fit(session)

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", width_ratios=[1, 2.4])
    for run in session:
        frames = run.read(0, run.n_frames)
        right.plot(frames.mean((1, 2)), label=run.name)
    image = left.imshow(frames.mean(0), cmap="gray")

figure.colorbar(image, ax=left, label="16-bit pixel value", shrink=0.8)
left.set(title=f"Mean frame, {run.name}", xlabel="column (pixels)", ylabel="row (pixels)")
right.set(title="Brightness", xlabel="frame", ylabel="mean pixel value")
right.legend(frameon=False)
right.spines[["top", "right"]].set_visible(False)
figure.suptitle("Movies of a home-made format (simulated data)")
figure.savefig("own_movie_files.png", dpi=150)
