r"""Where the cells are: localised, non-negative footprints, found in the movie itself. Not in the paper.

A frame, about its run's mean, is taken to be

.. math:: x_t = \sum_k a_k z_{tk} + \sum_i b_i u_{ti} + \sum_s f_s v_{ts} + \text{noise},

with footprints :math:`a_k \ge 0` of cells, broad :math:`b_i` of the haze that cells share, and the static image with
its two slopes, :math:`f_s`, for light that fades and tissue that moves. What noise adds to a pixel is another in every
frame, so it has no part in the covariance of frames with the frames after them,

.. math:: C = \operatorname{mean}_t (x_t x_{t+1}^\top + x_{t+1} x_t^\top) / 2,

and neither has what comes and goes without memory. Cells are looked for in C: first one after the other, the strongest
first (`seek_cells`), then all together (`refine`), and those are left out that the others explain (`choose_cells`).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, pi
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label  # type: ignore[attr-defined]
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from larscope._errors import LarscopeError
from larscope._movies.preprocessing import PreparedSession

CHUNK = 64
"""Frames read at once."""

TILE = 6
"""Side of the squares of pixels whose covariances are computed together."""

REACH = 0.9
"""Half the side of the window that a footprint lies in, in diameters."""

SCALES = tuple(np.geomspace(0.35, 14, 75))
"""Widths of the Gaussian cells that a movie is compared with to measure their diameter, in pixels."""

WIDTH = 3.0
"""Diameter of a cell, in such widths."""

SHOULDER = 1.0
"""Largest slope of a shoulder, in powers of the width; of one cell's rise it is 2 at half its width."""

COARSE = 5
"""Candidates are sought with about so many pixels a diameter: more are binned."""

SMOOTH = 0.2
"""Width of the Gaussian that the map of candidates is smoothed by, in diameters."""

DEVIATIONS = 7.0
"""Candidates stand out from what is left of that map by so many robust standard deviations."""

FAINT, FAINTEST = 0.15, 0.1
"""Pixels below this share of its peak are none of a footprint: of a candidate, and of a refined one."""

SMALLEST, LARGEST = 0.16, 2.5
"""Area of the smallest and, once refined, of the largest footprint, in squared diameters: more is haze."""

MOST_CELLS = 2000
"""Candidates at most."""

ROUNDS = 5
"""How often all parts are read from the frames and refined."""

PASSES = 10
"""How often all frames are read: for their mean, the diameter, candidates, haze, each round, and last of all."""

OWN_SHARE = 0.05
"""A candidate stays if what it alone explains is at least this share of what the strongest of those that it overlaps
explains."""

FAINT_CELL = 0.02
"""It stays only if it explains at least this share of what cells explain in the median."""

FORGETFUL = 0.05
"""And only if this share of its trace's power is left one frame later: less is noise."""

OVERLAPPING = 0.2
"""Two footprints overlap where the cosine between them is larger."""

SWEEPS = 20
"""Passes over all parts in one round."""

RIDGE = 1e-3
"""Penalty of the least squares that read parts of unit length from a frame."""

SPACING = 1.7
"""Distance of the nodes that haze is seen at, and half the width over which it is smooth, in diameters."""

HAZE_SHARE, MOST_HAZE = 0.03, 12
"""Haze has as many parts as vary by this share of the first, and no more than that number."""


@dataclass(frozen=True)
class Parts:
    """What frames are made of: the footprints of cells, the haze that they share, and the static image's changes.

    Attributes
    ----------
    cells
        Footprints: non-negative, 1 at their brightest; the strongest cell first.
    broad
        Haze, and last the static image with its two slopes, all of unit length.
    memory
        How much of each of these is left one frame later.
    diameter
        Of the cells that were sought, in pixels; 0 where none were sought.
    """

    cells: "Windows"
    broad: Float[NDArray[np.float32], "broad height width"]
    memory: Float[NDArray[np.float64], " broad"]
    diameter: float = 0.0

    def gram(self) -> Float[NDArray[np.float64], "parts parts"]:
        """Return the products of all parts with each other, cells first."""
        return _gram(self.cells, self.broad.reshape(len(self.broad), self.cells.shape[0] * self.cells.shape[1]))


def find_parts(
    prepared: PreparedSession,
    mean_frame: Float[Tensor, "height width"],
    diameter: float | None = None,
    on_frames: Callable[[int], None] = lambda n_frames: None,
) -> Parts:
    """Find the cells of a session, and what else its frames are made of; the same movie always has the same cells.

    Frames are read a few at a time, ten times over. Memory grows with pixels and cells, not with frames.

    Parameters
    ----------
    prepared
        The frames.
    mean_frame
        Mean over runs of each run's mean over time.
    diameter
        Of a cell, in pixels; None measures it.
    on_frames
        Called with the number of frames read since the last call, to show progress.

    Raises
    ------
    LarscopeError
        No cell was found.

    Examples
    --------
    >>> from larscope import simulate_session
    >>> from larscope._movies.preprocessing import prepare
    >>> session = simulate_session(n_runs=2, n_frames=200, frame_shape=(48, 48), seed=0)
    >>> prepared = prepare(session)
    >>> parts = find_parts(prepared, torch.from_numpy(prepared.mean_frame()))
    >>> parts.cells.images().shape, len(session.truth.positions)
    ((5, 48, 48), 5)
    """
    movie = _Movie(prepared, on_frames)
    shape = (int(mean_frame.shape[0]), int(mean_frame.shape[1]))
    static = static_components(mean_frame)
    if diameter is None:
        diameter = measure_diameter(movie, shape, static)
    coarse = max(1, round(diameter / COARSE))
    candidates = seek_cells(covary(movie, shape, static, diameter, coarse), diameter / coarse)
    cells = _require_cells(Windows.of(candidates, coarse, shape, round(REACH * diameter)), diameter)
    haze = seek_haze(movie, mean_frame, static, cells, diameter)
    broad = torch.cat([haze, static]).flatten(1).numpy()
    for _ in range(ROUNDS):
        moments = measure_parts(movie, cells, broad)
        cells, broad, lagged = refine(moments, cells, broad, len(haze), mean_frame.numpy(), diameter)
        cells = _require_cells(choose_cells(_require_cells(cells, diameter), broad, lagged), diameter)
    moments = measure_parts(movie, cells, broad)
    memory = np.clip(np.diag(moments.lagged) / np.diag(moments.power), 0, 1)[len(cells) :]
    cells = cells.keep(np.argsort(-np.diag(moments.lagged)[: len(cells)]))
    peaks = cells.values.max((1, 2), keepdims=True)
    return Parts(Windows(cells.values / peaks, cells.corner, shape), broad.reshape(-1, *shape), memory, diameter)


def _require_cells(cells: "Windows", diameter: float) -> "Windows":
    if not len(cells):
        raise LarscopeError(
            f"Latents need cells: none of about {diameter:.2g} pixels was found in this session. Pass their diameter "
            "as `cell_diameter`, or latents='grid'."
        )
    return cells


def search_bytes(shape: tuple[int, int], diameter: float) -> int:
    """Return the memory that `find_parts` takes, in bytes, beside that of one cell each."""
    coarse = max(1, round(diameter / COARSE))
    side = TILE + 4 * round(REACH * diameter / coarse)
    return 4 * shape[0] * shape[1] * (side**2 // coarse**2 + 8 * CHUNK)


def measure_diameter(
    movie: Iterable[Float[Tensor, "t height width"]], shape: tuple[int, int], static: Float[Tensor, "3 height width"]
) -> float:
    r"""Return the diameter of the cells of a movie, in pixels.

    With S the power spectrum of the lagged covariance, to which noise adds nothing, it is three times the width
    :math:`s` at which

    .. math:: \sum_k S(k) \, (s |k|)^4 \, e^{-2 s^2 |k|^2}

    has its first peak, or its first shoulder before that of wider haze: for round cells with the profile of a Gaussian,
    that is the Gaussian's width (the scale at which blobs are found, Lindeberg 1998).
    """
    taper = torch.outer(*(torch.hann_window(size + 2, periodic=False)[1:-1] for size in shape))
    basis = torch.linalg.qr(static.flatten(1).T.double()).Q.float()
    power = torch.zeros(shape[0], shape[1] // 2 + 1, dtype=torch.float64)
    for frames in movie:
        flat = frames.flatten(1)
        spectrum = torch.fft.rfft2((flat - flat @ basis @ basis.T).view_as(frames) * taper)
        power += (spectrum[:-1] * spectrum[1:].conj()).real.sum(0)
    power[:, 1 : (shape[1] + 1) // 2] *= 2  # the other half of the plane is its mirror image
    down, across = 2 * pi * torch.fft.fftfreq(shape[0]), 2 * pi * torch.fft.rfftfreq(shape[1])
    square = (down[:, None] ** 2 + across**2).double()
    strength = np.array(
        [float((power * (s**2 * square) ** 2 * torch.exp(-2 * s**2 * square)).sum()) for s in SCALES]
    ).clip(min=1e-300)
    # at a peak the logarithm's slope is zero; at a shoulder it is smallest
    slope = np.gradient(np.log(strength), np.log(SCALES))
    shoulder = np.r_[False, (slope[1:-1] <= slope[:-2]) & (slope[1:-1] < slope[2:]), False]
    found = slope <= np.where(shoulder, SHOULDER, 0.0)
    return WIDTH * float(SCALES[int(np.argmax(found)) if found.any() else int(np.argmax(strength))])


def static_components(mean_frame: Float[Tensor, "height width"]) -> Float[Tensor, "3 height width"]:
    """Return the static image and its two slopes, each of unit length: what fading and small movements add to it."""
    rows, columns = torch.gradient(mean_frame)
    static = torch.stack([mean_frame, rows, columns])
    return _of_unit_length(static)


def _of_unit_length(images: Float[Tensor, "n height width"]) -> Float[Tensor, "n height width"]:
    scaled: Tensor = images / images.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
    return scaled


class _Movie:
    """All frames of a session about their run's mean, some at a time."""

    def __init__(self, prepared: PreparedSession, on_frames: Callable[[int], None]) -> None:
        self._prepared = prepared
        self._on_frames = on_frames
        self._means = [self._mean(run) for run in range(len(prepared.runs))]

    def __iter__(self) -> Iterator[Float[Tensor, "t height width"]]:
        for run, mean in enumerate(self._means):
            for frames in self._read(run):
                yield frames - mean

    def _mean(self, run: int) -> Float[Tensor, "height width"]:
        total, n_frames = torch.zeros((), dtype=torch.float64), 0
        for frames in self._read(run):
            total = total + frames.sum(0, dtype=torch.float64)
            n_frames += len(frames)
        return (total / n_frames).float()

    def _read(self, run: int) -> Iterator[Float[Tensor, "t height width"]]:
        for start, stop in self._prepared.runs[run].batches(CHUNK):
            yield torch.from_numpy(self._prepared.frames(run, start, stop))
            self._on_frames(stop - start)


# -------------------------------------------------------------------------------------------- candidates


class LaggedCovariance:
    """The products of each pixel with those around it one frame later, summed over frames.

    Parameters
    ----------
    shape
        Height and width of the frames.
    reach
        How many rows and columns apart two pixels are at most.
    """

    def __init__(self, shape: tuple[int, int], reach: int) -> None:
        self.shape = shape
        self._reach = reach
        self._grid = ceil(shape[0] / TILE), ceil(shape[1] / TILE)
        self._side = TILE + 2 * reach
        self.values = np.zeros((*self._grid, TILE**2, self._side**2), np.float32)

    def add(self, frames: Float[Tensor, "t height width"]) -> None:
        """Add consecutive frames."""
        margins = [(self._reach, n * TILE - size + self._reach) for n, size in zip(self._grid, self.shape, strict=True)]
        padded = F.pad(frames, (*margins[1], *margins[0]))
        n_pairs = len(frames) - 1
        for row in range(self._grid[0]):
            band = padded[:, row * TILE : row * TILE + self._side]
            core = band[:-1, self._reach : self._reach + TILE, self._reach : self._reach + self._grid[1] * TILE]
            own = core.unfold(2, TILE, TILE).permute(2, 1, 3, 0).reshape(self._grid[1], TILE**2, n_pairs)
            later = band[1:].unfold(2, self._side, TILE).permute(2, 0, 1, 3).reshape(self._grid[1], n_pairs, -1)
            self.values[row] += (own @ later).numpy()

    def variances(self) -> Float[NDArray[np.float32], "height width"]:
        """Return each pixel's product with itself one frame later."""
        rows, columns = np.mgrid[: self.shape[0], : self.shape[1]]
        return np.asarray(self.values[self._index(rows, columns, rows, columns)])

    def between(
        self, rows: Int[NDArray[np.int64], " n"], columns: Int[NDArray[np.int64], " n"]
    ) -> tuple[Float[NDArray[np.float64], "n n"], tuple[NDArray[np.int64], ...]]:
        """Return the symmetrised products of some pixels, and where in `values` they are kept."""
        index = self._index(rows[:, None], columns[:, None], rows[None], columns[None])
        found = self.values[index].astype(np.float64)
        return (found + found.T) / 2, index

    def _index(
        self, row: NDArray[np.int64], column: NDArray[np.int64], to_row: NDArray[np.int64], to_column: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], ...]:
        down = to_row - row // TILE * TILE + self._reach
        across = to_column - column // TILE * TILE + self._reach
        return row // TILE, column // TILE, row % TILE * TILE + column % TILE, down * self._side + across


def covary(
    movie: Iterable[Float[Tensor, "t height width"]],
    shape: tuple[int, int],
    static: Float[Tensor, "3 height width"],
    diameter: float,
    coarse: int = 1,
) -> LaggedCovariance:
    """Return the lagged covariance of what is as small as a cell: without the static image's changes, and without haze.

    Frames are high-passed with a Gaussian of one diameter, and binned, `coarse` by `coarse` pixels.
    """
    covariance = LaggedCovariance((shape[0] // coarse, shape[1] // coarse), 2 * round(REACH * diameter / coarse))
    basis = torch.linalg.qr(static.flatten(1).T.double()).Q.float()
    blur = [_blur(size, diameter) for size in shape]
    for frames in movie:
        flat = frames.flatten(1)
        changes = (flat - flat @ basis @ basis.T).view_as(frames)
        covariance.add(F.avg_pool2d(changes - blur[0] @ changes @ blur[1].T, coarse))
    return covariance


Candidate = tuple[tuple[int, int], Float[NDArray[np.float64], "height width"]]
"""Row and column of its first pixel, and its footprint."""


def seek_cells(covariance: LaggedCovariance, diameter: float) -> list[Candidate]:
    """Take footprints from a covariance, the strongest first, until none stands out; the covariance is used up.

    At the brightest place left of the map of C's diagonal, smoothed, the footprint is, of the three leading
    eigenvectors of C in a window, the one that weighs most there: without its negative and faint pixels, and
    connected. What projects on it is then subtracted from C.
    """
    height, width = covariance.shape
    half = round(REACH * diameter)
    left = covariance.variances()
    used = np.zeros(left.shape, bool)
    footprints: list[Candidate] = []
    while len(footprints) < MOST_CELLS:
        smooth = gaussian_filter(left, SMOOTH * diameter)
        # of what is left: while strong cells are there, they are most of the spread
        middle = np.median(smooth)
        threshold = middle + DEVIATIONS * 1.4826 * np.median(np.abs(smooth - middle))
        open_map = np.where(used, -np.inf, smooth)
        seed = np.unravel_index(open_map.argmax(), open_map.shape)
        if open_map[seed] <= max(threshold, 0):
            break
        used[seed] = True
        window = tuple(slice(max(at - half, 0), at + half + 1) for at in seed)
        rows, columns = np.mgrid[:height, :width][(slice(None), *window)]
        products, index = covariance.between(rows.ravel(), columns.ravel())
        footprint = _leading_footprint(products, rows.shape, (seed[0] - rows[0, 0], seed[1] - columns[0, 0]))
        if np.count_nonzero(footprint) < SMALLEST * diameter**2:
            used[max(seed[0] - 1, 0) : seed[0] + 2, max(seed[1] - 1, 0) : seed[1] + 2] = True
            continue
        a = footprint.ravel() / np.linalg.norm(footprint)
        shared = np.outer(products @ a, a)
        products -= shared + shared.T - (a @ products @ a) * np.outer(a, a)
        covariance.values[index] = products
        left[window] = products.diagonal().reshape(rows.shape)
        footprints.append(((int(rows[0, 0]), int(columns[0, 0])), footprint))
    return footprints


def _leading_footprint(
    products: Float[NDArray[np.float64], "n n"], shape: tuple[int, ...], seed: tuple[int, int]
) -> Float[NDArray[np.float64], "height width"]:
    values, vectors = (part[..., -3:] for part in np.linalg.eigh(products))
    at_seed = vectors[seed[0] * shape[1] + seed[1]]
    strongest = (values * at_seed**2).argmax()
    image = vectors[:, strongest].reshape(shape)
    return keep_connected(image if at_seed[strongest] > 0 else -image, FAINT, seed)


def keep_connected(
    image: Float[NDArray[np.float64], "height width"], faint: float, seed: tuple[int, int] | None = None
) -> Float[NDArray[np.float64], "height width"]:
    """Return an image without its faint pixels, and of what is left, what hangs together with `seed` or is brightest.

    >>> keep_connected(np.array([[0.1, 1.0, 0.5, -0.2, 0.9]]), faint=0.2)
    array([[0. , 1. , 0.5, 0. , 0. ]])
    """
    image = np.where(image < max(faint * image.max(), 1e-300), 0, image)
    pieces, n_pieces = label(image > 0)
    if seed is not None:
        kept = pieces[seed]
    else:
        kept = 1 + np.bincount(pieces.ravel(), image.ravel(), n_pieces + 1)[1:].argmax() if n_pieces else 0
    return np.where((pieces == kept) & (kept > 0), image, 0)


def _blur(size: int, sigma: float) -> Float[Tensor, "size size"]:
    """Return the matrix that blurs along an axis: a Gaussian, whose weights sum to 1 at the edges too."""
    at = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
    return weights / weights.sum(1, keepdim=True)


# -------------------------------------------------------------------------------------------------- haze


def seek_haze(
    movie: Iterable[Float[Tensor, "t height width"]],
    mean_frame: Float[Tensor, "height width"],
    static: Float[Tensor, "3 height width"],
    cells: "Windows",
    diameter: float,
) -> Float[Tensor, "haze height width"]:
    """Return smooth patterns, relative to the static image, that vary together: seen between the cells alone.

    They are the leading eigenvectors of the lagged covariance of regressions on the mean frame around the nodes of a
    grid.
    """
    basis = torch.linalg.qr(static.flatten(1).T.double()).Q.float()
    between = torch.from_numpy(~(cells.total() > 0)).float()
    down, across = (_tents(size, max(2, round(size / (SPACING * diameter)) + 1)) for size in mean_frame.shape)
    seen = mean_frame * between
    weight = (down @ (seen * mean_frame) @ across.T).flatten()
    # a node that is all cells sees no haze
    weight = torch.where(weight > 1e-3 * weight.max(), weight, torch.inf)
    products = torch.zeros(len(weight), len(weight), dtype=torch.float64)
    for frames in movie:
        flat = frames.flatten(1)
        changes = (flat - flat @ basis @ basis.T).view_as(frames)
        nodes = (down @ (seen * changes) @ across.T).flatten(1) / weight
        products += (nodes[:-1].T @ nodes[1:]).double()
    values, vectors = torch.linalg.eigh((products + products.T) / 2)
    strong = (values > HAZE_SHARE * values[-1].clamp(min=1e-300)).nonzero().flatten().flip(0)[:MOST_HAZE]
    nodes = vectors.T[strong].float().unflatten(1, (len(down), len(across)))
    return _of_unit_length(mean_frame * (down.T @ nodes @ across))


def _tents(size: int, n: int) -> Float[Tensor, "n size"]:
    """Return the weights of linear interpolation between n nodes, the first and the last at the ends."""
    nodes, step = torch.linspace(0, size - 1, n), (size - 1) / (n - 1)
    return (1 - (torch.arange(size) - nodes[:, None]).abs() / step).clamp(min=0)


# ------------------------------------------------------------------------------------------- all together


@dataclass(frozen=True)
class Windows:
    """Footprints, each in a window of its own: of cells, far less than images.

    Attributes
    ----------
    values
        The pixels of each window.
    corner
        Row and column of its first pixel in the frame, which may lie outside.
    shape
        Height and width of the frame.
    """

    values: Float[NDArray[np.float64], "K side side"]
    corner: Int[NDArray[np.int64], "K 2"]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def around(cls, images: Float[NDArray[np.float64], "K height width"], half: int) -> "Windows":
        """Cut each image around its centre of mass."""
        mass = images.sum((1, 2))
        rows, columns = (np.arange(size) for size in images.shape[1:])
        centre = np.stack([images.sum(2) @ rows, images.sum(1) @ columns], 1) / mass[:, None]
        corner = np.rint(centre).astype(np.int64) - half
        padded = np.pad(images, ((0, 0), (half, half), (half, half)))
        side = 2 * half + 1
        values = np.stack([one[r : r + side, c : c + side] for one, (r, c) in zip(padded, corner + half, strict=True)])
        return cls(values, corner, (images.shape[1], images.shape[2]))

    @classmethod
    def of(cls, candidates: list[Candidate], coarse: int, shape: tuple[int, int], half: int) -> "Windows":
        """Put candidates, each pixel of which is `coarse` by `coarse` pixels of the frame, into windows around them."""
        side = 2 * half + 1
        values, corners = np.zeros((len(candidates), side, side)), np.zeros((len(candidates), 2), np.int64)
        for window, corner, (first, footprint) in zip(values, corners, candidates, strict=True):
            image = np.pad(np.kron(footprint, np.ones((coarse, coarse))), side)
            rows, columns = np.nonzero(image)
            weight = image[rows, columns] / image.sum()
            middle = np.rint([rows @ weight, columns @ weight]).astype(np.int64)
            window[:] = image[middle[0] - half : middle[0] + half + 1, middle[1] - half : middle[1] + half + 1]
            corner[:] = np.multiply(first, coarse) + middle - side - half
        return cls(values, corners, shape)

    @property
    def half(self) -> int:
        """Half the side of a window."""
        return int(self.values.shape[1]) // 2

    @property
    def places(self) -> Int[NDArray[np.int64], "K pixels"]:
        """Number of each pixel in a frame that has `half` more pixels on every side, row by row."""
        side = np.arange(self.values.shape[1])
        wide = self.shape[1] + 2 * self.half
        first = (self.corner + self.half) @ [wide, 1]
        return np.asarray((first[:, None, None] + side[:, None] * wide + side).reshape(len(self), -1))

    @property
    def matrix(self) -> Any:
        """The footprints as rows over the pixels of such a frame."""
        height, width = (size + 2 * self.half for size in self.shape)
        n_pixels = self.values[0].size if len(self) else 0
        ends = np.arange(len(self) + 1) * n_pixels
        entries = self.values.ravel(), self.places.ravel(), ends
        return csr_array(entries, shape=(len(self), height * width))

    def centres(self) -> Float[NDArray[np.float64], "K 2"]:
        """Return row and column of each footprint's centre of mass."""
        mass, at = self.values.sum((1, 2)), np.arange(self.values.shape[1])
        inside = np.stack([self.values.sum(2) @ at, self.values.sum(1) @ at], 1) / mass[:, None]
        return np.asarray(self.corner + inside)

    def total(self) -> Float[NDArray[np.float64], "height width"]:
        """Return their sum as a frame."""
        return _unpad(self.matrix.T @ np.ones(len(self)), self).reshape(self.shape)

    def images(self) -> Float[NDArray[np.float64], "K height width"]:
        """Return them as frames."""
        half, (height, width) = self.half, self.shape
        padded = self.matrix.toarray().reshape(-1, height + 2 * half, width + 2 * half)
        return np.asarray(padded[:, half : half + height, half : half + width])

    def pad(self, images: Float[NDArray[Any], "n pixels"]) -> Float[NDArray[Any], "n more"]:
        """Return frames with the margin that windows may reach into."""
        half = self.half
        padded = np.pad(images.reshape(-1, *self.shape), ((0, 0), (half, half), (half, half)))
        return padded.reshape(len(padded), padded.shape[1] * padded.shape[2])

    def keep(self, which: NDArray[Any]) -> "Windows":
        """Return some of them."""
        return Windows(self.values[which], self.corner[which], self.shape)

    def recentred(self) -> "Windows":
        """Move each window to its footprint's centre of mass."""
        moved, at = np.zeros_like(self.values), range(self.values.shape[1])
        steps = np.rint(self.centres() - self.corner - self.half).astype(np.int64)
        for to, values, (down, right) in zip(moved, self.values, steps, strict=True):
            rows, columns = (slice(max(-s, 0), len(at) - max(s, 0)) for s in (down, right))
            from_rows, from_columns = (slice(max(s, 0), len(at) + min(s, 0)) for s in (down, right))
            to[rows, columns] = values[from_rows, from_columns]
        return Windows(moved, self.corner + steps, self.shape)


@dataclass(frozen=True)
class Moments:
    """What the parts' coefficients say of the movie: lagged products with pixels, with each other, and their power.

    Parts are cells, haze and static image, in this order, all of unit length.
    """

    with_cells: Float[NDArray[np.float64], "K pixels"]
    with_broad: Float[NDArray[np.float64], "broad pixels"]
    lagged: Float[NDArray[np.float64], "parts parts"]
    power: Float[NDArray[np.float64], "parts parts"]


def measure_parts(
    movie: Iterable[Float[Tensor, "t height width"]], cells: Windows, broad: Float[NDArray[np.float32], "broad pixels"]
) -> Moments:
    """Read the parts' coefficients from all frames by ridge least squares, and return their moments."""
    matrix, n_cells, places = cells.matrix.astype(np.float32), len(cells), cells.places
    gram = _gram(cells, broad)
    read = np.linalg.inv(gram + RIDGE * np.eye(len(gram))).astype(np.float32)
    with_cells, with_broad = np.zeros(places.shape), np.zeros(broad.shape)
    lagged, power = np.zeros(gram.shape), np.zeros(gram.shape)
    n_pairs = 0
    for frames in movie:
        flat = frames.flatten(1).numpy()
        padded = cells.pad(flat)
        seen = np.concatenate([(matrix @ padded.T).T, flat @ broad.T], 1)
        z = seen @ read
        # neighbours in time on both sides: twice the symmetrised product
        around = np.zeros_like(z)
        around[1:] += z[:-1]
        around[:-1] += z[1:]
        for k in range(n_cells):
            with_cells[k] += around[:, k] @ padded[:, places[k]]
        with_broad += around[:, n_cells:].T @ flat
        lagged += around.T @ seen
        power += z.T @ z
        n_pairs += 2 * (len(z) - 1)
    lagged = lagged @ read / n_pairs
    return Moments(with_cells / n_pairs, with_broad / n_pairs, (lagged + lagged.T) / 2, power / (n_pairs / 2))


def _gram(cells: Windows, broad: Float[NDArray[np.float32], "broad pixels"]) -> Float[NDArray[np.float64], "p p"]:
    matrix = cells.matrix
    both = matrix @ cells.pad(broad.astype(np.float64)).T
    return np.block([[(matrix @ matrix.T).toarray(), both], [both.T, broad.astype(np.float64) @ broad.T]])


def refine(
    moments: Moments,
    cells: Windows,
    broad: Float[NDArray[np.float32], "broad pixels"],
    n_haze: int,
    mean_frame: Float[NDArray[np.float32], "height width"],
    diameter: float,
) -> tuple[Windows, Float[NDArray[np.float32], "broad pixels"], Float[NDArray[np.float64], "parts parts"]]:
    r"""Fit all parts anew to the lagged moments, and return them of unit length, with their own lagged moments.

    With D the parts, Z their coefficients and G those moments, :math:`\min_D \lVert S - G D \rVert^2` where S are
    the moments of coefficients with pixels: part by part, cells in their windows and not negative, haze smooth relative
    to the static image, which stays as it is. Noise in the coefficients does not bias them, since it is another one
    frame later: they are instruments.
    """
    n_cells, lagged = len(cells), _remembering(moments)
    forgotten = np.diag(moments.lagged) <= FORGETFUL * np.diag(moments.power)
    values, places = cells.values.reshape(n_cells, -1).copy(), cells.places
    inside = cells.pad(np.ones((1, mean_frame.size))).ravel()[places] > 0
    parts = broad.astype(np.float64)
    blur = [_blur(size, SPACING * diameter / 2).double().numpy() for size in mean_frame.shape]
    static_power = blur[0] @ np.square(mean_frame.astype(np.float64)) @ blur[1].T
    overlap = (cells.matrix != 0).astype(np.float64)
    beside = [row.indices for row in (overlap @ overlap.T).tocsr()] if n_cells else []
    canvas = np.zeros(cells.matrix.shape[1])
    for sweep in range(SWEEPS):
        hazy = cells.pad(parts)
        for k in range(n_cells):
            if forgotten[k]:
                values[k] = 0
                continue
            drawn = lagged[k, n_cells:] @ hazy[:, places[k]]
            for other in beside[k]:
                canvas[places[other]] += lagged[k, other] * values[other]
            drawn += canvas[places[k]]
            for other in beside[k]:
                canvas[places[other]] = 0
            values[k] += (moments.with_cells[k] - drawn) / lagged[k, k]
            values[k] = np.where(inside[k], values[k].clip(min=0), 0)
        if sweep % 4:
            continue  # haze changes little, and is drawn over whole frames
        current = Windows(values.reshape(cells.values.shape), cells.corner, cells.shape)
        for i in range(n_haze):
            row = n_cells + i
            if forgotten[row]:
                continue
            drawn = _unpad(current.matrix.T @ lagged[row, :n_cells], cells) + lagged[row, n_cells:] @ parts
            image = (parts[i] + (moments.with_broad[i] - drawn) / lagged[row, row]).reshape(mean_frame.shape)
            smooth = mean_frame * (blur[0] @ (mean_frame * image) @ blur[1].T) / static_power.clip(min=1e-12)
            parts[i] = smooth.ravel()
    values = np.stack([keep_connected(one, FAINTEST) for one in values.reshape(cells.values.shape)])
    length = np.concatenate([np.sqrt(np.square(values).sum((1, 2))), np.linalg.norm(parts, axis=1)])
    scaled = lagged * length[:, None] * length
    safe = np.where(length > 0, length, 1)
    area = np.count_nonzero(values, axis=(1, 2)) / diameter**2
    kept = (length[:n_cells] > 0) & (area >= SMALLEST) & (area <= LARGEST)
    found = Windows(values / safe[:n_cells, None, None], cells.corner, cells.shape).keep(kept)
    those = np.concatenate([kept, np.ones(len(parts), bool)])
    new_broad = (parts / safe[n_cells:, None]).astype(np.float32)
    return found, new_broad, scaled[np.ix_(those, those)]


def _remembering(moments: Moments) -> Float[NDArray[np.float64], "parts parts"]:
    """Return the lagged moments with a share `FORGETFUL` of the power, at least, in every mixture of parts.

    In short movies chance makes some negative, and no fit would end.
    """
    values, vectors = np.linalg.eigh(moments.power)
    root = vectors * np.sqrt(values.clip(min=1e-9 * values[-1]))
    inverse = np.linalg.inv(root)
    memory, mixtures = np.linalg.eigh(inverse @ moments.lagged @ inverse.T)
    mixtures = root @ mixtures
    return np.asarray(mixtures * memory.clip(min=FORGETFUL) @ mixtures.T)


def _unpad(image: Float[NDArray[np.float64], " more"], cells: Windows) -> Float[NDArray[np.float64], " pixels"]:
    half, (height, width) = cells.half, cells.shape
    padded = image.reshape(height + 2 * half, width + 2 * half)
    return padded[half : half + height, half : half + width].ravel()


def choose_cells(
    cells: Windows,
    broad: Float[NDArray[np.float32], "broad pixels"],
    lagged: Float[NDArray[np.float64], "parts parts"],
) -> Windows:
    """Leave out, one after the other, the cell that explains least of what the others do not.

    What cell k alone explains of the lagged covariance is its moment times the squared length of what is left of its
    footprint beside all other parts. It goes while that is below `OWN_SHARE` of what the strongest of those that it
    overlaps explains; the others then take over what it explained.
    """
    gram = _gram(cells, broad)
    kept = np.arange(len(gram))
    current = lagged
    while len(kept) > len(broad):
        n_cells = len(kept) - len(broad)
        inner = gram[np.ix_(kept, kept)]
        alone = 1 / np.diag(np.linalg.inv(inner + 1e-6 * np.eye(len(inner))))[:n_cells]
        strength = np.diag(current)[:n_cells].clip(min=0)
        overlapping = (inner[:n_cells, :n_cells] > OVERLAPPING) | np.eye(n_cells, dtype=bool)
        strongest = np.where(overlapping, strength, 0).max(1)
        standing = strength * alone / strongest.clip(min=1e-300)
        standing[strength < FAINT_CELL * np.median(strength)] = 0
        weakest = int(standing.argmin())
        if standing[weakest] >= OWN_SHARE:
            break
        kept = np.delete(kept, weakest)
        inner = gram[np.ix_(kept, kept)]
        take_over = np.linalg.solve(inner + RIDGE * np.eye(len(inner)), gram[kept])
        current = take_over @ lagged @ take_over.T
    return cells.keep(kept[: len(kept) - len(broad)]).recentred()
