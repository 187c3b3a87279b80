// Local response normalisation's windows of channels, and the power of their sums.
#pragma once

#include "common.cuh"

// √x and a ÷ b, for floats to a few units of the last place: exact, they take nine instructions.
// x is positive, b below 2^126: so are a scale and its powers, unless values beyond 2^62 are
// normalised, which come to zero or NaN.
__device__ __forceinline__ float quick_root(float x) { return x * rsqrt(x); }
__device__ __forceinline__ double quick_root(double x) { return sqrt(x); }
__device__ __forceinline__ float quick_ratio(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ double quick_ratio(double a, double b) { return a / b; }

// scale^-beta, and for the published beta = 0.75 without a pow: r·sqrt(r) with r = 1/sqrt(s).
template <typename A>
__device__ __forceinline__ A power(A scale, A beta) {
    if (beta == A(0.75)) {
        A r = rsqrt(scale);
        return r * quick_root(r);
    }
    return pow(scale, -beta);
}

// Σ term(value) of a row of c channels over the windows around channels i to i + W − 1, half
// a window to each side; in channel order, so that no sum depends on the launch.
template <int W, typename T, typename Term>
__device__ __forceinline__ Vec<accumulator<T>, W> window_sums(const T* row, int i, int c,
                                                              int half, Term term) {
    using A = accumulator<T>;
    Vec<A, W> sums;
    for (int e = 0; e < W; e++) sums.at[e] = 0;
    if constexpr (W > 1)
        if (half == 2) {  // the published window: two neighbours on each side
            A near[W + 4] = {};
            Vec<T, W> own = load<W>(row + i);
            for (int e = 0; e < W; e++) near[2 + e] = term(own.at[e]);
            for (int e = 0; e < 2; e++) {
                if (i > 0) near[e] = term(load<2>(row + i - 2).at[e]);
                if (i + W < c) near[W + 2 + e] = term(load<2>(row + i + W).at[e]);
            }
#pragma unroll
            for (int e = 0; e < W; e++)
                for (int j = 0; j < 5; j++) sums.at[e] += near[e + j];
            return sums;
        }
    int first = max(i - half, 0) / W * W, last = min(i + W - 1 + half, c - 1);
    for (int j = first; j <= last; j += W) {
        Vec<T, W> values = load<W>(row + j);
#pragma unroll
        for (int near = 0; near < W; near++) {
            A value = term(values.at[near]);
#pragma unroll
            for (int e = 0; e < W; e++) {
                int distance = j + near - (i + e);
                if (-half <= distance && distance <= half) sums.at[e] += value;
            }
        }
    }
    return sums;
}

// The squares of one row summed: scale = k + share · Σ x².
template <int W, typename T, typename A>
__device__ __forceinline__ Vec<A, W> scales(const T* row, int i, int c, int half, A share, A k) {
    auto square = [](T x) { return A(x) * A(x); };
    Vec<A, W> scale = window_sums<W>(row, i, c, half, square);
#pragma unroll
    for (int e = 0; e < W; e++) scale.at[e] = k + share * scale.at[e];
    return scale;
}
