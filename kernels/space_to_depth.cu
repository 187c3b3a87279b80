// A strided convolution's filters as those of the same convolution over blocks of pixels.
//
// Formula   blocked[k, r, s, (down·stride[1] + right)·C + c] =
//               w[k, r·stride[0] + down, s·stride[1] + right, c],
//           zero beyond w's taps and in the channels after the last of a block;
//           dw[k, r·stride[0] + down, …] = Σ_slices of the same places of dblocked.
// Layout    w, dw (K,R,S,C); blocked (K, rows, columns, channels); dblocked: `slices` partial
//           gradients of that shape, `apart` numbers from one to the next.
// Mapping   A thread a number, the last axis fastest. Filters are small: for caffenet's conv1,
//           of stride 4, 35 thousand numbers become 41 thousand.
// Assumes   the numbers of w and of blocked fit an int. Slices are added in their order.
// Budget    40 registers.

#include "common.cuh"

constexpr int THREADS = 256;

struct Filters {
    int k, r, s, c;               // of w
    int rows, columns, channels;  // of blocked
    int stride[2];
};

template <typename T>
__global__ void __launch_bounds__(THREADS, 6)
    block_filters(const T* __restrict__ w, T* __restrict__ blocked, Filters shape) {
    int i = (int)global_thread();
    int channel = i % shape.channels, tap = i / shape.channels;
    int column = tap % shape.columns, row = tap / shape.columns % shape.rows;
    int k = tap / shape.columns / shape.rows;
    if (k >= shape.k) return;
    int pixel = channel / shape.c, down = pixel / shape.stride[1];
    int r = row * shape.stride[0] + down;
    int s = column * shape.stride[1] + pixel % shape.stride[1];
    bool inside = down < shape.stride[0] && r < shape.r && s < shape.s;
    int from = ((k * shape.r + r) * shape.s + s) * shape.c + channel % shape.c;
    blocked[i] = inside ? w[from] : T(0);
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 6)
    unblock_gradient(const T* __restrict__ dblocked, T* __restrict__ dw, Filters shape,
                     i64 apart, int slices) {
    int i = (int)global_thread();
    int c = i % shape.c, tap = i / shape.c;
    int s = tap % shape.s, r = tap / shape.s % shape.r, k = tap / shape.s / shape.r;
    if (k >= shape.k) return;
    int pixel = r % shape.stride[0] * shape.stride[1] + s % shape.stride[1];
    int line = k * shape.rows + r / shape.stride[0];
    dblocked += (i64)(line * shape.columns + s / shape.stride[1]) * shape.channels;
    dblocked += pixel * shape.c + c;
    T sum = *dblocked;
#pragma unroll 8
    for (int slice = 1; slice < slices; slice++) sum += dblocked[slice * apart];
    dw[i] = sum;
}

INSTANTIATE(block_filters<float>, block_filters<double>, block_filters<bf16>);
INSTANTIATE(unblock_gradient<float>, unblock_gradient<double>);
