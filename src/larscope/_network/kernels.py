"""Compiled kernels of the network's layers on the CPU: each frame in one pass, row by row, within the cache.

A plane of all channels at full resolution takes 200 MB for a window of the paper's size, and reading it costs more than
computing on it. So nothing here makes one: what a row needs is computed when it is needed, again in the backward pass.
Arrays are (frames, height, width, channels); images of one channel (frames, height + 2, width + 2), with a border of
zeros. Sums are float64, one a frame, so that they do not depend on the number of threads. Numba infers the types.
"""
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from larscope._compute.compiler import compiled

# One channel to many and back
#
# `weight` is (9, channels). A square is the 2 x 2 pixels that are pooled. What is done for all channels of a square is
# one loop, which the compiler turns into instructions for many channels at once; it does not where a loop reads and
# writes too many arrays, so the gradient of the weights has one of its own.


@compiled
def _around(image, t, i, j):
    """Return the 4 x 4 pixels of square (i, j) of frame t and around it, row by row."""
    p, q, r, s = image[t, 2 * i], image[t, 2 * i + 1], image[t, 2 * i + 2], image[t, 2 * i + 3]
    j = 2 * j
    return (
        *(p[j], p[j + 1], p[j + 2], p[j + 3]),
        *(q[j], q[j + 1], q[j + 2], q[j + 3]),
        *(r[j], r[j + 1], r[j + 2], r[j + 3]),
        *(s[j], s[j + 1], s[j + 2], s[j + 3]),
    )


@compiled
def _convolve(pixels, weight, c):
    """3 x 3 convolution to channel c at the four places of a square."""
    p0, p1, p2, p3, q0, q1, q2, q3, r0, r1, r2, r3, s0, s1, s2, s3 = pixels
    w0, w1, w2 = weight[0, c], weight[1, c], weight[2, c]
    w3, w4, w5 = weight[3, c], weight[4, c], weight[5, c]
    w6, w7, w8 = weight[6, c], weight[7, c], weight[8, c]
    return (
        (w0 * p0 + w1 * p1 + w2 * p2) + (w3 * q0 + w4 * q1 + w5 * q2) + (w6 * r0 + w7 * r1 + w8 * r2),
        (w0 * p1 + w1 * p2 + w2 * p3) + (w3 * q1 + w4 * q2 + w5 * q3) + (w6 * r1 + w7 * r2 + w8 * r3),
        (w0 * q0 + w1 * q1 + w2 * q2) + (w3 * r0 + w4 * r1 + w5 * r2) + (w6 * s0 + w7 * s1 + w8 * s2),
        (w0 * q1 + w1 * q2 + w2 * q3) + (w3 * r1 + w4 * r2 + w5 * r3) + (w6 * s1 + w7 * s2 + w8 * s3),
    )


@compiled
def _correlate(pixels, a, b, d, e, total, c):
    """Add the products of the values of channel c at the four places with the 3 x 3 pixels around each."""
    p0, p1, p2, p3, q0, q1, q2, q3, r0, r1, r2, r3, s0, s1, s2, s3 = pixels
    total[0, c] += (a * p0 + b * p1) + (d * q0 + e * q1)
    total[1, c] += (a * p1 + b * p2) + (d * q1 + e * q2)
    total[2, c] += (a * p2 + b * p3) + (d * q2 + e * q3)
    total[3, c] += (a * q0 + b * q1) + (d * r0 + e * r1)
    total[4, c] += (a * q1 + b * q2) + (d * r1 + e * r2)
    total[5, c] += (a * q2 + b * q3) + (d * r2 + e * r3)
    total[6, c] += (a * r0 + b * r1) + (d * s0 + e * s1)
    total[7, c] += (a * r1 + b * r2) + (d * s1 + e * s2)
    total[8, c] += (a * r2 + b * r3) + (d * s2 + e * s3)


@compiled
def _leaky(value, slope):
    return max(value, slope * value)


@compiled
def _unpooled(value, place, zero):
    """Return a maximum at its place among four, and zeros."""
    a = value if place == 0 else zero
    b = value if place == 1 else zero
    d = value if place == 2 else zero
    e = value if place == 3 else zero
    return a, b, d, e


@compiled
def _largest(sign, a, b, d, e):
    """Return the largest of four values after multiplication with the sign, and its place."""
    a, b, d, e = sign * a, sign * b, sign * d, sign * e
    top, bottom = max(a, b), max(d, e)
    top_place = np.uint8(1) if b > a else np.uint8(0)
    bottom_place = np.uint8(3) if e > d else np.uint8(2)
    return sign * max(top, bottom), bottom_place if bottom > top else top_place


@compiled
def _change(value, passed, slope, constant, linear):
    """Gradient of a value before leaky ReLU and batch norm, from the gradient of its maximum."""
    change = passed + constant + linear * _leaky(value, slope)
    return change if value > 0 else slope * change


@compiled
def spread_pool(start, stop, image, weight, bias, slope, sign, pooled, which, total, squares):
    """`pool` of the 3 x 3 convolution of an image of one channel."""
    _, height, width, channels = pooled.shape
    for t in range(start, stop):
        # float64 from the first: a mean that is large against the spread leaves a small difference of large squares
        frame_total, frame_squares = total[t], squares[t]
        for i in range(height):
            for j in range(width):
                pixels = _around(image, t, i, j)
                best, where = pooled[t, i, j], which[t, i, j]
                for c in range(channels):
                    a, b, d, e = _convolve(pixels, weight, c)
                    a, b = _leaky(a + bias[c], slope), _leaky(b + bias[c], slope)
                    d, e = _leaky(d + bias[c], slope), _leaky(e + bias[c], slope)
                    frame_total[c] += (a + b) + (d + e)
                    frame_squares[c] += (a * a + b * b) + (d * d + e * e)
                    best[c], where[c] = _largest(sign[c], a, b, d, e)


@compiled
def spread_pool_backward(
    start, stop, image, weight, bias, gradient, which, slope, scale, constant, linear, weight_gradient, bias_gradient
):
    """From the gradient of the maxima to the gradient of the convolution's weights, one per frame."""
    zero = gradient.dtype.type(0)
    _, height, width, channels = gradient.shape
    row_weights, row_biases = np.empty_like(weight), np.empty_like(bias)
    change = np.empty((4, channels), gradient.dtype)
    for t in range(start, stop):
        for i in range(height):
            row_weights[:] = 0
            row_biases[:] = 0
            for j in range(width):
                pixels = _around(image, t, i, j)
                maxima, where = gradient[t, i, j], which[t, i, j]
                for c in range(channels):
                    a, b, d, e = _convolve(pixels, weight, c)
                    a_passed, b_passed, d_passed, e_passed = _unpooled(scale[c] * maxima[c], where[c], zero)
                    a = _change(a + bias[c], a_passed, slope, constant[c], linear[c])
                    b = _change(b + bias[c], b_passed, slope, constant[c], linear[c])
                    d = _change(d + bias[c], d_passed, slope, constant[c], linear[c])
                    e = _change(e + bias[c], e_passed, slope, constant[c], linear[c])
                    row_biases[c] += (a + b) + (d + e)
                    change[0, c], change[1, c], change[2, c], change[3, c] = a, b, d, e
                for c in range(channels):
                    _correlate(pixels, change[0, c], change[1, c], change[2, c], change[3, c], row_weights, c)
            weight_gradient[t] += row_weights
            bias_gradient[t] += row_biases


@compiled
def unpool_gather(start, stop, x, which, weight, out):
    """3 x 3 convolution to one channel of unpooled input; ignore the border of the answer."""
    zero = x.dtype.type(0)
    _, height, width, channels = x.shape
    for t in range(start, stop):
        out[t] = 0
        for i in range(height):
            for j in range(width):
                maxima, where = x[t, i, j], which[t, i, j]
                p0 = p1 = p2 = p3 = q0 = q1 = q2 = q3 = zero
                r0 = r1 = r2 = r3 = s0 = s1 = s2 = s3 = zero
                for c in range(channels):
                    a, b, d, e = _unpooled(maxima[c], where[c], zero)
                    w0, w1, w2 = weight[0, c], weight[1, c], weight[2, c]
                    w3, w4, w5 = weight[3, c], weight[4, c], weight[5, c]
                    w6, w7, w8 = weight[6, c], weight[7, c], weight[8, c]
                    p0 += w8 * a
                    p1 += w7 * a + w8 * b
                    p2 += w6 * a + w7 * b
                    p3 += w6 * b
                    q0 += w5 * a + w8 * d
                    q1 += (w4 * a + w5 * b) + (w7 * d + w8 * e)
                    q2 += (w3 * a + w4 * b) + (w6 * d + w7 * e)
                    q3 += w3 * b + w6 * e
                    r0 += w2 * a + w5 * d
                    r1 += (w1 * a + w2 * b) + (w4 * d + w5 * e)
                    r2 += (w0 * a + w1 * b) + (w3 * d + w4 * e)
                    r3 += w0 * b + w3 * e
                    s0 += w2 * d
                    s1 += w1 * d + w2 * e
                    s2 += w0 * d + w1 * e
                    s3 += w0 * e
                _add(out[t, 2 * i], 2 * j, p0, p1, p2, p3)
                _add(out[t, 2 * i + 1], 2 * j, q0, q1, q2, q3)
                _add(out[t, 2 * i + 2], 2 * j, r0, r1, r2, r3)
                _add(out[t, 2 * i + 3], 2 * j, s0, s1, s2, s3)


@compiled
def _add(row, j, a, b, d, e):
    row[j] += a
    row[j + 1] += b
    row[j + 2] += d
    row[j + 3] += e


@compiled
def unpool_gather_backward(start, stop, x, which, weight, gradient, x_gradient, weight_gradient):
    """Gradients of the maxima and, one a frame, of the weights; both see the kernel turned by 180 degrees."""
    zero = x.dtype.type(0)
    _, height, width, channels = x.shape
    row_weights = np.empty_like(weight)
    for t in range(start, stop):
        for i in range(height):
            row_weights[:] = 0
            for j in range(width):
                pixels = _around(gradient, t, i, j)
                maxima, where, out = x[t, i, j], which[t, i, j], x_gradient[t, i, j]
                for c in range(channels):
                    a, b, d, e = _convolve(pixels, weight, c)
                    place = where[c]
                    top, bottom = b if place == 1 else a, e if place == 3 else d
                    out[c] = bottom if place >= 2 else top
                for c in range(channels):
                    a, b, d, e = _unpooled(maxima[c], where[c], zero)
                    _correlate(pixels, a, b, d, e, row_weights, c)
            weight_gradient[t] += row_weights


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
                    a, b, d, e = _leaky(a, slope), _leaky(b, slope), _leaky(d, slope), _leaky(e, slope)
                    row_total[c] += (a + b) + (d + e)
                    row_squares[c] += (a * a + b * b) + (d * d + e * e)
                    pooled[t, i, j, c], which[t, i, j, c] = _largest(sign[c], a, b, d, e)
            total[t] += row_total
            squares[t] += row_squares


@compiled
def pool_backward(start, stop, y, gradient, which, slope, scale, constant, linear, out):
    """From the gradient of the maxima to the gradient of the pooled input."""
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
                        out[t, row, column, c] = _change(value, passed, slope, constant[c], linear[c])


@compiled
def unpool(start, stop, x, which, out):
    """Every maximum at its place in `which`, zeros elsewhere."""
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
