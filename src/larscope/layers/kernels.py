"""Compiled kernels of the network's layers on the CPU: each frame in one pass, row by row, within the cache.

A plane of all channels at full resolution takes 200 MB for a window of the paper's size, and reading it costs more than
computing on it. So nothing here makes one: what a row needs is computed when it is needed, again in the backward pass.
Arrays are (frames, height, width, channels); images of one channel (frames, height + 2, width + 2), with a border of
zeros. Sums are float64, one a frame, so that they do not depend on the number of threads. Numba infers the types.
"""
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from larscope.compiled import compiled

# One channel to many and back
#
# Even and odd columns of an image lie apart, and with them the four places of each square that is pooled: an image with
# its border is (frames, height + 2, 2, width / 2 + 1), a row of squares at one place (channels, width / 2).


@compiled
def _transpose(rows, out):
    for c in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[c, j] = rows[j, c]


@compiled
def _spread(image, i, place, weight, bias, out):
    """3 x 3 convolution from one channel to many at one place of row i of the squares; `weight` is (channels, 9)."""
    row, p = 2 * i + place // 2, place % 2
    q = 1 - p
    for c in range(out.shape[0]):
        a0, a1, a2 = weight[c, 0], weight[c, 1], weight[c, 2]
        b0, b1, b2 = weight[c, 3], weight[c, 4], weight[c, 5]
        d0, d1, d2 = weight[c, 6], weight[c, 7], weight[c, 8]
        for j in range(out.shape[1]):
            above = a0 * image[row, p, j] + a1 * image[row, q, j + p] + a2 * image[row, p, j + 1]
            here = b0 * image[row + 1, p, j] + b1 * image[row + 1, q, j + p] + b2 * image[row + 1, p, j + 1]
            below = d0 * image[row + 2, p, j] + d1 * image[row + 2, q, j + p] + d2 * image[row + 2, p, j + 1]
            out[c, j] = bias[c] + above + here + below


@compiled
def _correlate(image, i, place, values, total):
    """Add to `total` (channels, 9) the products of values at one place with the pixels around it."""
    p = place % 2
    for k in range(3):
        row = 2 * i + place // 2 + k
        for c in range(values.shape[0]):
            a = b = d = values.dtype.type(0)
            for j in range(values.shape[1]):
                a += values[c, j] * image[row, p, j]
                b += values[c, j] * image[row, 1 - p, j + p]
                d += values[c, j] * image[row, p, j + 1]
            total[c, 3 * k] += a
            total[c, 3 * k + 1] += b
            total[c, 3 * k + 2] += d


@compiled
def _pool_places(places, slope, sign, pooled, which, total, squares):
    """Leaky ReLU of the four places, its sums, and where sign * value is largest."""
    for c in range(pooled.shape[0]):
        s = sign[c]
        sum_ = square = sign.dtype.type(0)
        for j in range(pooled.shape[1]):
            a, b, d, e = places[0, c, j], places[1, c, j], places[2, c, j], places[3, c, j]
            a, b, d, e = max(a, slope * a), max(b, slope * b), max(d, slope * d), max(e, slope * e)
            sum_ += (a + b) + (d + e)
            square += (a * a + b * b) + (d * d + e * e)
            a, b, d, e = s * a, s * b, s * d, s * e
            top, bottom = max(a, b), max(d, e)
            pooled[c, j] = s * max(top, bottom)
            top_place = np.uint8(1) if b > a else np.uint8(0)
            bottom_place = np.uint8(3) if e > d else np.uint8(2)
            which[c, j] = bottom_place if bottom > top else top_place
        total[c] += sum_
        squares[c] += square


@compiled
def spread_pool(start, stop, image, weight, bias, slope, sign, pooled, which, total, squares):
    """`pool` of the 3 x 3 convolution of an image of one channel."""
    _, height, width, channels = pooled.shape
    places = np.empty((4, channels, width), pooled.dtype)
    best, where = np.empty((channels, width), pooled.dtype), np.empty((channels, width), np.uint8)
    for t in range(start, stop):
        for i in range(height):
            for place in range(4):
                _spread(image[t], i, place, weight, bias, places[place])
            _pool_places(places, slope, sign, best, where, total[t], squares[t])
            _transpose(best, pooled[t, i])
            _transpose(where, which[t, i])


@compiled
def spread_pool_backward(
    start, stop, image, weight, bias, gradient, which, slope, scale, constant, linear, weight_gradient, bias_gradient
):
    """From the gradient of the maxima to that of the convolution's weights, one a frame."""
    zero = gradient.dtype.type(0)
    _, height, width, channels = gradient.shape
    values = np.empty((channels, width), gradient.dtype)
    maxima, where = np.empty((channels, width), gradient.dtype), np.empty((channels, width), np.uint8)
    for t in range(start, stop):
        for i in range(height):
            _transpose(gradient[t, i], maxima)
            _transpose(which[t, i], where)
            for place in range(4):
                _spread(image[t], i, place, weight, bias, values)
                for c in range(channels):
                    total = zero
                    p, q, r = scale[c], constant[c], linear[c]
                    for j in range(width):
                        value = values[c, j]
                        passed = maxima[c, j]
                        passed = passed if where[c, j] == place else zero
                        change = p * passed + q + r * max(value, slope * value)
                        change = change if value > 0 else slope * change
                        values[c, j] = change
                        total += change
                    bias_gradient[t, c] += total
                _correlate(image[t], i, place, values, weight_gradient[t])


@compiled
def _unpool_row(maxima, where, row, out):
    """Rows of an unpooled plane with its border, even and odd columns apart."""
    zero = maxima.dtype.type(0)
    channels, width = maxima.shape
    for column in range(2):
        place = 2 * row + column
        shift = column
        part = out[1 - column]
        for c in range(channels):
            for j in range(width):
                value = maxima[c, j]
                part[c, j + shift] = value if where[c, j] == place else zero


@compiled
def unpool_gather(start, stop, x, which, weight, out):
    """3 x 3 convolution to one channel of what was unpooled; even and odd columns of the answer apart."""
    _, height, width, channels = x.shape
    rows = np.zeros((3, 2, channels, width + 1), x.dtype)
    maxima, where = np.empty((channels, width), x.dtype), np.empty((channels, width), np.uint8)
    for t in range(start, stop):
        rows[2] = 0
        for below in range(2 * height + 1):
            if below < 2 * height:
                if below % 2 == 0:
                    _transpose(x[t, below // 2], maxima)
                    _transpose(which[t, below // 2], where)
                _unpool_row(maxima, where, below % 2, rows[below % 3])
            else:
                rows[below % 3] = 0
            if below > 0:
                for column in range(2):
                    answer = out[t, below - 1, column]
                    answer[:] = 0
                    for k in range(3):
                        part = rows[(below + k + 1) % 3]
                        for c in range(channels):
                            a, b, d = weight[c, 3 * k], weight[c, 3 * k + 1], weight[c, 3 * k + 2]
                            left, middle = part[column, c, :width], part[1 - column, c, column : column + width]
                            right = part[column, c, 1 : 1 + width]
                            for j in range(width):
                                answer[j] += a * left[j] + b * middle[j] + d * right[j]


@compiled
def unpool_gather_backward(start, stop, x, which, weight, gradient, x_gradient, weight_gradient):
    """Gradients of the maxima and, one a frame, of the weights; both see the kernel turned by 180 degrees."""
    zero = x.dtype.type(0)
    _, height, width, channels = x.shape
    no_bias = np.zeros_like(weight[:, 0])
    values, answer = np.empty((channels, width), x.dtype), np.empty((channels, width), x.dtype)
    maxima, where = np.empty((channels, width), x.dtype), np.empty((channels, width), np.uint8)
    for t in range(start, stop):
        for i in range(height):
            _transpose(x[t, i], maxima)
            _transpose(which[t, i], where)
            answer[:] = 0
            for place in range(4):
                for c in range(channels):
                    for j in range(width):
                        value = maxima[c, j]
                        values[c, j] = value if where[c, j] == place else zero
                _correlate(gradient[t], i, place, values, weight_gradient[t])
                _spread(gradient[t], i, place, weight, no_bias, values)
                for c in range(channels):
                    for j in range(width):
                        value, before = values[c, j], answer[c, j]
                        answer[c, j] = value if where[c, j] == place else before
            _transpose(answer, x_gradient[t, i])


# Many channels


@compiled
def pool(start, stop, y, slope, sign, pooled, which, total, squares):
    """Leaky ReLU, sums of it and of its squares, and 2 x 2 max-pool."""
    _, height, width, channels = pooled.shape
    for t in range(start, stop):
        for i in range(height):
            row_total, row_squares = np.zeros_like(sign), np.zeros_like(sign)
            for j in range(width):
                for c in range(channels):
                    a, b = y[t, 2 * i, 2 * j, c], y[t, 2 * i, 2 * j + 1, c]
                    d, e = y[t, 2 * i + 1, 2 * j, c], y[t, 2 * i + 1, 2 * j + 1, c]
                    a, b, d, e = max(a, slope * a), max(b, slope * b), max(d, slope * d), max(e, slope * e)
                    row_total[c] += (a + b) + (d + e)
                    row_squares[c] += (a * a + b * b) + (d * d + e * e)
                    s = sign[c]
                    a, b, d, e = s * a, s * b, s * d, s * e
                    top, bottom = max(a, b), max(d, e)
                    pooled[t, i, j, c] = s * max(top, bottom)
                    top_place = np.uint8(1) if b > a else np.uint8(0)
                    bottom_place = np.uint8(3) if e > d else np.uint8(2)
                    which[t, i, j, c] = bottom_place if bottom > top else top_place
            total[t] += row_total
            squares[t] += row_squares


@compiled
def pool_backward(start, stop, y, gradient, which, slope, scale, constant, linear, out):
    """From the gradient of the maxima to that of what was pooled."""
    zero = y.dtype.type(0)
    _, height, width, channels = gradient.shape
    for t in range(start, stop):
        for i in range(height):
            for j in range(width):
                for place in range(4):
                    row, column = 2 * i + place // 2, 2 * j + place % 2
                    for c in range(channels):
                        value, passed = y[t, row, column, c], scale[c] * gradient[t, i, j, c]
                        passed = passed if which[t, i, j, c] == place else zero
                        change = passed + constant[c] + linear[c] * max(value, slope * value)
                        out[t, row, column, c] = change if value > 0 else slope * change


@compiled
def unpool(start, stop, x, which, out):
    """Every maximum where `which` says, zeros elsewhere."""
    zero = x.dtype.type(0)
    _, height, width, channels = x.shape
    for t in range(start, stop):
        for i in range(height):
            for j in range(width):
                for place in range(4):
                    row, column = 2 * i + place // 2, 2 * j + place % 2
                    for c in range(channels):
                        value = x[t, i, j, c]
                        out[t, row, column, c] = value if which[t, i, j, c] == place else zero


@compiled
def unpool_backward(start, stop, gradient, which, out):
    """Take the gradient at every maximum's place."""
    _, height, width, channels = out.shape
    for t in range(start, stop):
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    a, b = gradient[t, 2 * i, 2 * j, c], gradient[t, 2 * i, 2 * j + 1, c]
                    d, e = gradient[t, 2 * i + 1, 2 * j, c], gradient[t, 2 * i + 1, 2 * j + 1, c]
                    place = which[t, i, j, c]
                    top = b if place == 1 else a
                    bottom = e if place == 3 else d
                    out[t, i, j, c] = bottom if place >= 2 else top


@compiled
def sums(start, stop, gradient, pooled, total, products):
    """Sum a gradient and of its products with values."""
    row_total, row_products = np.zeros_like(gradient[0, 0, 0]), np.zeros_like(gradient[0, 0, 0])
    for t in range(start, stop):
        for i in range(gradient.shape[1]):
            row_total[:] = 0
            row_products[:] = 0
            for j in range(gradient.shape[2]):
                for c in range(gradient.shape[3]):
                    row_total[c] += gradient[t, i, j, c]
                    row_products[c] += gradient[t, i, j, c] * pooled[t, i, j, c]
            total[t] += row_total
            products[t] += row_products
