// Max pooling's windows: the largest of one, and what flows back to a pixel from all of them.
#pragma once

#include "common.cuh"

// One pooling problem; Python's PoolShape without n. An image's numbers fit an int.
struct Pooling {
    int h, w, c, p, q;
    int window[2], stride[2], pad[2];
};

template <typename T, int W>
struct Largest {
    Vec<T, W> value;
    Vec<u8, W> place;  // in its window, r·S + s
};

// The maxima of window (p, q) in W channels of an image that starts at those channels. Of
// equal ones the first counts; a NaN stays, its place is then that of the ones before it.
template <int W, typename T>
__device__ __forceinline__ Largest<T, W> largest(const T* x, const Pooling& shape, int p,
                                                 int q) {
    using A = accumulator<T>;
    int top = p * shape.stride[0] - shape.pad[0], left = q * shape.stride[1] - shape.pad[1];
    int last_r = min(shape.window[0], shape.h - top);
    int last_s = min(shape.window[1], shape.w - left);
    Vec<A, W> best;
    Largest<T, W> found;
    for (int e = 0; e < W; e++) {
        best.at[e] = -__int_as_float(0x7f800000);  // minus infinity
        found.place.at[e] = 0;
    }
    for (int r = max(0, -top); r < last_r; r++)
        for (int s = max(0, -left); s < last_s; s++) {
            int pixel = (top + r) * shape.w + left + s;
            Vec<T, W> values = load<W>(x + pixel * shape.c);
#pragma unroll
            for (int e = 0; e < W; e++) {
                A value = values.at[e];
                bool better = value > best.at[e];
                if (better) found.place.at[e] = r * shape.window[1] + s;
                // A NaN is not better, but it stays: nothing is better than it either.
                if (better || value != value) best.at[e] = value;
            }
        }
    for (int e = 0; e < W; e++) found.value.at[e] = T(best.at[e]);
    return found;
}

// Σ over the windows whose maximum came from this pixel, from the last window to the first.
// gradient(p, q) gives W channels of a window's gradient, place(p, q) of its argmax.
template <typename A, int W, typename Gradient, typename Place>
__device__ __forceinline__ Vec<A, W> gather(const Pooling& shape, int row, int column,
                                            Gradient gradient, Place place) {
    // Window p covers this row if 0 ≤ row + pad − p·stride < R.
    row += shape.pad[0], column += shape.pad[1];
    int first_p = ceil_div(max(row - shape.window[0] + 1, 0), shape.stride[0]);
    int first_q = ceil_div(max(column - shape.window[1] + 1, 0), shape.stride[1]);
    int last_q = min(column / shape.stride[1], shape.q - 1);
    Vec<A, W> sum;
    for (int e = 0; e < W; e++) sum.at[e] = 0;
    for (int p = min(row / shape.stride[0], shape.p - 1); p >= first_p; p--)
        for (int q = last_q; q >= first_q; q--) {
            int here = (row - p * shape.stride[0]) * shape.window[1] + column -
                       q * shape.stride[1];
            Vec<u8, W> places = place(p, q);
            auto parts = gradient(p, q);
#pragma unroll
            for (int e = 0; e < W; e++)
                if (places.at[e] == here) sum.at[e] += A(parts.at[e]);
        }
    return sum;
}
