"""Simulated sessions: two-photon-like movies with planted, known dynamics.

Image: soft discs with dim nuclei over a structured background with vessels, under a slow and smooth neuropil
haze, counted with photon shot noise. Dynamics, for cell j with spikes s and calcium trace c::

    s[t, j] ~ Poisson(base[j] + sum_k sum_l couplings[k-1, j, l] * s[t-k, l])
    c[t, j] = decay[j] * c[t-1, j] + s[t, j]

A planted coupling of lag k between spikes therefore shows between traces at the lags k and k + 1, and the
traces follow a sparse VAR exactly: `Truth.trace_coef`.
"""
