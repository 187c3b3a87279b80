// Max pooling's windows: the largest of one, and what flows back to a pixel from all of them.
#pragma once

#include "common.cuh"

// One pooling problem; Python's PoolShape without n. An image's numbers fit an int.
struct Pooling {
    int h, w, c, p, q;
    int window[2], stride[2], pad[2];
};

// a ÷ b and a % b, for a ≥ 0. By 2, the published pools' stride, they are one instruction; a
// division is 17.
__device__ __forceinline__ int quotient(int a, int b) { return b == 2 ? a >> 1 : a / b; }
__device__ __forceinline__ int remainder(int a, int b) { return b == 2 ? a & 1 : a % b; }

template <typename T, int W>
struct Largest {
    Vec<T, W> value;
    Vec<u8, W> place;  // in its window, r·S + s
};

// There is no such instruction for them.
__device__ __forceinline__ double max_or_nan(double a, double b) {
    return a >= b || a != a ? a : b;
}

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
    u32 place[W] = {};
    for (int e = 0; e < W; e++) best.at[e] = -__int_as_float(0x7f800000);  // minus infinity
    for (int r = max(0, -top); r < last_r; r++)
        for (int s = max(0, -left); s < last_s; s++) {
            int pixel = (top + r) * shape.w + left + s;
            Vec<T, W> values = load<W>(x + pixel * shape.c);
#pragma unroll
            for (int e = 0; e < W; e++) {
                A value = values.at[e];
                if (value > best.at[e]) place[e] = r * shape.window[1] + s;
                // A NaN is not larger, but it stays: nothing is larger than it either.
                best.at[e] = max_or_nan(best.at[e], value);
            }
        }
    Largest<T, W> found;
    for (int e = 0; e < W; e++) {
        found.value.at[e] = T(best.at[e]);
        found.place.at[e] = place[e];
    }
    return found;
}

// Σ over the windows whose maximum came from this pixel, from the last window to the first.
// gradient(p, q) gives W channels of a window's gradient, place(p, q) of its argmax.
template <typename A, int W, typename Gradient, typename Place>
__device__ __forceinline__ Vec<A, W> gather(const Pooling& shape, int row, int column,
                                            Gradient gradient, Place place) {
    // Window p covers this row, as its row r = row + pad − p·stride, if 0 ≤ r < R.
    row += shape.pad[0], column += shape.pad[1];
    int last_p = min(quotient(row, shape.stride[0]), shape.p - 1);
    int last_q = min(quotient(column, shape.stride[1]), shape.q - 1);
    int last_r = row - last_p * shape.stride[0], last_s = column - last_q * shape.stride[1];
    Vec<A, W> sum;
    for (int e = 0; e < W; e++) sum.at[e] = 0;
    for (int p = last_p, r = last_r; p >= 0 && r < shape.window[0]; p--, r += shape.stride[0])
        for (int q = last_q, s = last_s; q >= 0 && s < shape.window[1];
             q--, s += shape.stride[1]) {
            int here = r * shape.window[1] + s;
            // Four bytes at a time: those of a window whose maximum came from here are zero.
            constexpr int WORDS = ceil_div(W, 4);
            Vec<u8, W> places = place(p, q);
            u32 differ[WORDS] = {};
            memcpy(differ, &places, sizeof(places));
#pragma unroll
            for (int word = 0; word < WORDS; word++) differ[word] ^= 0x01010101u * here;
            auto parts = gradient(p, q);
#pragma unroll
            for (int e = 0; e < W; e++)
                if (!(differ[e / 4] & 0xffu << e % 4 * 8)) sum.at[e] += A(parts.at[e]);
        }
    return sum;
}
