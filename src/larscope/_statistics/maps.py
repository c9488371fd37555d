"""Influence vectors and contribution maps: which latents drive others, and where.

Section 2.4 of arXiv 2603.02899. Everything here works on arrays; the decoder comes in as a callable.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from larscope._errors import LarscopeError

Coefs = Float[np.ndarray, "runs order K K"] | Sequence[Float[np.ndarray, "order K K"]]
"""Coefficients, one array (order, K, K) a run."""

Decode = Callable[[Float[np.ndarray, "maps K"]], Float[np.ndarray, "maps height width"]]


def influence(
    coef: Float[np.ndarray, "order K K"],
    direction: Literal["outflow", "inflow"] = "outflow",
    exclude_radius: float = 0.0,
    grid: tuple[int, int] | Float[np.ndarray, "K 2"] | None = None,
) -> Float[np.ndarray, " K"]:
    r"""Sum the absolute couplings of each latent with the others, over lags.

    .. math::
        c_l = \sum_k \sum_{j \ne l} |a_{k,jl}| \quad\text{(outflow)}, \qquad
        c_j = \sum_k \sum_{l \ne j} |a_{k,jl}| \quad\text{(inflow)}

    where :math:`a_{k,jl}`, `coef[k-1, j, l]`, is the effect of latent l on latent j at lag k. Section 2.4 of
    the paper speaks of outflow and prints :math:`\sum_l |a_{jl}|`, which is what j receives; both are here.

    Parameters
    ----------
    coef
        Coefficients of one run.
    direction
        "outflow": what a latent does to others. "inflow": what others do to it (the paper's printed formula).
    exclude_radius
        Leave out couplings between latents at most this far apart (latent pixels, Euclidean). One cell that
        covers two neighbouring latents looks like a coupling of the two; 1.5 leaves out the eight neighbours.
        The diagonal is always left out.
    grid
        Height and width of the latent map, K = height * width; or row and column of each latent, where they are not on
        a grid. Needed with `exclude_radius`, which is in the same units.

    Returns
    -------
    c
        One non-negative number a latent, shape (K,), without unit.

    Raises
    ------
    LarscopeError
        If `coef` is not (order, K, K), `direction` is unknown, or `grid` is missing or does not match K.

    Examples
    --------
    >>> coef = np.zeros((1, 3, 3))
    >>> coef[0, 2, 0] = -0.5  # latent 0 acts on latent 2
    >>> influence(coef), influence(coef, direction="inflow")
    (array([0.5, 0. , 0. ]), array([0. , 0. , 0.5]))
    """
    check_coefs([coef])
    if direction not in ("outflow", "inflow"):
        raise LarscopeError(f"`direction` must be 'outflow' or 'inflow': got {direction!r}. Choose one of the two.")
    coupling = np.abs(np.asarray(coef, float)).sum(axis=0)
    coupling[is_near(len(coupling), exclude_radius, grid)] = 0
    return np.asarray(coupling.sum(axis=0 if direction == "outflow" else 1))


def decoder_response(
    decode: Decode,
    latent_mean: Float[np.ndarray, " K"],
    sigma_z: Float[np.ndarray, " K"],
    grid: tuple[int, int],
    gain: float = 1.0,
) -> Float[np.ndarray, "9 height width"]:
    r"""How the decoder's image changes when single latents are moved.

    .. math:: r_l = (\mathrm{decode}(\bar z + gain \cdot \sigma_l e_l)
                    - \mathrm{decode}(\bar z - gain \cdot \sigma_l e_l)) / 2

    A latent reaches no further than the eight patches around its own (of a patch's 8 pixels, two unpoolings and three
    3 x 3 convolutions reach 7), so latents three apart are moved at once and nine pairs of images show all of them.

    Parameters
    ----------
    decode
        Takes latent maps (maps, K) and returns the decoder's images (maps, height, width).
    latent_mean, sigma_z
        Mean and standard deviation of each latent.
    grid
        Height and width of the latent map.
    gain
        How many standard deviations a latent is moved.

    Returns
    -------
    response
        In each pixel, the :math:`r_l` of the nine latents whose patches are the pixel's own and those around it. Its
        order is of use to `contribution_map` only. A mean over runs is a response too.

    Examples
    --------
    >>> response = decoder_response(lambda z: z.reshape(-1, 2, 2), np.zeros(4), np.full(4, 0.5), grid=(2, 2))
    >>> response.sum(axis=0)
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    moved = gain * sigma_z * (_kind(grid) == np.arange(9)[:, None])
    images = np.asarray(decode(np.concatenate([latent_mean + moved, latent_mean - moved])))
    return np.asarray((images[:9] - images[9:]) / 2)


def contribution_map(
    c: Float[np.ndarray, " K"], response: Float[np.ndarray, "9 height width"], grid: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    r"""Show an influence vector as an image: each pixel has the mean influence of its latents.

    .. math:: \text{map}(x) = \sum_l c_l r_l(x)^2 \Big/ \sum_l r_l(x)^2

    with the decoder's response :math:`r_l` to one standard deviation of latent l, so that latents count by their share
    in the pixel's variance. Neither sign nor scale of the latents matters, nor how bright or lively a place is.

    Parameters
    ----------
    c
        Influence vector, from `influence`, of coefficients between latents of unit variance.
    response
        From `decoder_response`.
    grid
        Height and width of the latent map.

    Returns
    -------
    map
        In units of `c`; zero where no latent shows.

    Raises
    ------
    LarscopeError
        If `response` does not have the size of nine images over `grid`.

    Examples
    --------
    >>> response = decoder_response(lambda z: z.reshape(-1, 2, 2), np.zeros(4), np.ones(4), grid=(2, 2))
    >>> contribution_map(np.array([0.0, 0.7, 0.0, 0.0]), response, grid=(2, 2))
    array([[0. , 0.7],
           [0. , 0. ]])
    """
    height, width = response.shape[1:]
    if len(response) != 9 or height % grid[0] or width % grid[1] or grid[0] * grid[1] != len(c):
        raise LarscopeError(
            f"`response` must be nine images divided into patches by {grid[0]} x {grid[1]} latents, and `c` of as "
            f"many latents: got shapes {response.shape} and {np.shape(c)}. Pass the response from `decoder_response`."
        )
    energy = np.square(response)
    total = energy.sum(axis=0)
    weighted = (np.asarray(c, float)[_reaching(grid, (height, width))] * energy).sum(axis=0)
    return np.asarray(np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0))


def footprint_map(
    c: Float[np.ndarray, " K"], footprints: Float[np.ndarray, "K height width"]
) -> Float[np.ndarray, "height width"]:
    r"""Show an influence vector as an image: in each pixel, that of the cell there.

    .. math:: \text{map}(x) = \max_l c_l a_l(x) / \max_y a_l(y)

    with the footprints :math:`a_l`; the maximum, lest two cells that overlap look like a stronger one.

    Parameters
    ----------
    c
        Influence vector, from `influence`.
    footprints
        Non-negative images.

    Examples
    --------
    >>> footprint_map(np.array([1.0, 0.5]), np.array([[[0.0, 2.0, 1.0]], [[0.0, 0.0, 1.0]]]))
    array([[0. , 1. , 0.5]])
    """
    image = np.zeros(footprints.shape[1:])
    for influence_of_one, footprint in zip(c, footprints, strict=True):
        np.maximum(image, influence_of_one * footprint / max(footprint.max(), 1e-12), out=image)
    return image


def printed_map(
    c: Float[np.ndarray, " K"], decode: Decode, mean_frame: Float[np.ndarray, "height width"], gain: float = 1.0
) -> Float[np.ndarray, "height width"]:
    r"""Decode an influence vector by the paper's printed formula (sec. 2.4).

    .. math:: \Omega(c) = (\mathrm{decode}(gain \cdot c) + 1) \, \bar x

    It depends on the sign and scale that training happened to give the latents, and mostly shows the mean frame.

    Parameters
    ----------
    c
        Influence vector, from `influence`.
    decode
        As in `decoder_response`; returns residuals about the mean frame.
    mean_frame
        The mean frame, intensities in [0, 1].
    gain
        Factor of `c`.

    Raises
    ------
    LarscopeError
        If `decode` returns images of another size than `mean_frame`.

    Examples
    --------
    >>> printed_map(np.array([0.0, 1.0]), lambda z: z.reshape(-1, 1, 2), np.full((1, 2), 0.5))
    array([[0.5, 1. ]])
    """
    images = np.asarray(decode(gain * np.asarray(c, float)[None]))
    if images.shape != (1, *np.shape(mean_frame)):
        raise LarscopeError(
            f"`decode` must return one image of the mean frame's size a map, {(1, *np.shape(mean_frame))}: got "
            f"{images.shape}. Average over pooling indices and drop the channel axis inside `decode`."
        )
    return np.asarray((images[0] + 1) * mean_frame)


def latent_positions(
    grid: tuple[int, int], frame_shape: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> Float[np.ndarray, "K 2"]:
    """Row and column, in input pixels, of the centre of each latent's patch of the image.

    Latents are numbered row by row over the latent map; pixel centres are whole numbers.

    Parameters
    ----------
    grid
        Height and width of the latent map.
    frame_shape
        Height and width that the map covers: of the crop, in input pixels before downscaling.
    offset
        Row and column of the crop's first pixel.

    Examples
    --------
    >>> latent_positions((1, 2), (8, 16), offset=(0, 100))
    array([[  3.5, 103.5],
           [  3.5, 111.5]])
    """
    row, column = (
        start + (np.arange(n) + 0.5) * size / n - 0.5 for n, size, start in zip(grid, frame_shape, offset, strict=True)
    )
    return np.stack(np.meshgrid(row, column, indexing="ij"), axis=-1).reshape(-1, 2)


def check_coefs(coefs: Coefs, n_runs: int = 1) -> None:
    """Raise unless there is one (order, K, K) array of finite numbers a run, all of one shape."""
    if len(coefs) != n_runs:
        raise LarscopeError(
            f"`coefs` must have one entry a run: got {len(coefs)} for {n_runs} runs. "
            "Pass coefficients and conditions of the same runs, in the same order."
        )
    shapes = [np.shape(coef) for coef in coefs]
    for run, shape in enumerate(shapes):
        if len(shape) != 3 or shape[1] != shape[2] or shape != shapes[0]:
            raise LarscopeError(
                f"Coefficients must be one (order, K, K) array a run, all of one shape: got {shape} for run {run} "
                f"and {shapes[0]} for run 0. Fit all runs with the same order and the same encoder."
            )
        if not np.isfinite(coefs[run]).all():
            raise LarscopeError(
                f"Coefficients must be finite: got NaN or infinite ones for run {run}. Leave this run out."
            )


def _kind(grid: tuple[int, int]) -> Int[np.ndarray, " K"]:
    """Return a number from 0 to 8 for each latent; latents of one number are three apart."""
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return np.asarray(3 * (row % 3) + column % 3)


def _reaching(grid: tuple[int, int], frame_shape: tuple[int, int]) -> Int[np.ndarray, "9 height width"]:
    """Return, for each number of `_kind`, its latent reaching a pixel.

    Beyond the edges of the grid there is none: any will do, since none responds there.
    """

    def nearest(n_patches: int, size: int) -> Int[np.ndarray, "3 size"]:
        patch = np.arange(size) * n_patches // size
        # the one of patch - 1, patch and patch + 1 that leaves each of the remainders 0, 1 and 2
        reaching = patch + (np.arange(3)[:, None] - patch + 1) % 3 - 1
        return np.asarray(reaching.clip(0, n_patches - 1))

    rows, columns = (nearest(n, size) for n, size in zip(grid, frame_shape, strict=True))
    latent = rows[:, None, :, None] * grid[1] + columns[None, :, None, :]
    return np.asarray(latent.reshape(9, *frame_shape))


def is_near(
    n_latents: int, radius: float, grid: tuple[int, int] | Float[np.ndarray, "K 2"] | None
) -> Bool[np.ndarray, "K K"]:
    """Pairs of latents at most `radius` apart; the diagonal always."""
    if radius <= 0:
        return np.eye(n_latents, dtype=bool)
    if isinstance(grid, np.ndarray):
        return near(grid, radius)
    if grid is None or grid[0] * grid[1] != n_latents:
        raise LarscopeError(
            f"`exclude_radius` needs `grid`, height and width of the map of {n_latents} latents: "
            f"got grid={grid}. Pass the shape of the latent map, or exclude_radius=0."
        )
    return near(np.stack(np.divmod(np.arange(n_latents), grid[1]), axis=1).astype(float), radius)


def near(positions: Float[np.ndarray, "K 2"], distance: float) -> Bool[np.ndarray, "K K"]:
    """Say which places are at most so far apart.

    >>> near(np.array([[0.0, 0.0], [0.0, 5.0]]), 3.0)
    array([[ True, False],
           [False,  True]])
    """
    squared = np.square(positions[:, None] - positions).sum(axis=2)
    return np.asarray(squared <= distance**2)
