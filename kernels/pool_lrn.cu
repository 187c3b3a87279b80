// Max pooling of a ReLU's output, then LRN across channels, as one op; forward and backward.
//
// Formula   u = max pooling of x (pool.cu), y = u · s^-beta with s = k + share · Σ u² (lrn.cu).
//           du = dy · s^-beta − slope · u · Σ dy·u·s^-beta/s, and 0 where u ≤ 0: the ReLU's
//           gradient, since a window's maximum is the ReLU's output at the place that du goes
//           to. dx[h,w] = Σ du[p,q] over the windows whose argmax is at (h,w): the gradient of
//           what the ReLU was given.
// Layout    NHWC: x, dx (N,H,W,C); u, argmax, y, dy (N,P,Q,C); argmax as in pool.cu.
// Bytes     Stored for the backward pass: u and one byte of argmax, nothing else. For each u of
//           b bytes with windows of 3, stride 2 (4.2 places of x a window):
//             forward   reads x 4.2b, writes u b, y b, argmax 1: 13 in bf16, where pooling and
//                       LRN apart move 17 (u again, and s).
//             backward  reads dy b, u b, argmax 1, writes dx 4.2b: 13, where LRN, pooling and
//                       ReLU apart move 44.
//           s is made again from u, which backward reads in any case: storing it would cost 2b
//           and a rounding; y instead of u would not do, as u cannot be had from it.
// Mapping   forward: a block takes blockDim.y places of u; its threads walk over their channels,
//           W at a time. u goes to shared memory, where the windows of channels find it.
//           backward: a block takes a tile of windows and the pixels from the tile's first
//           window to the next tile's. It walks down the rows of windows: makes du of one row,
//           which completes `stride` rows of pixels, and gathers these. du stays in a ring of
//           as many rows as overlap; those that the tile above or to the left also has, it
//           makes anew. Pixels gather as in pool.cu: no atomics, one order.
// Assumes   as pool.cu and lrn.cu; dynamic shared memory, of sums, of blockDim.y · c forward,
//           and backward (overlap + 1) · (tile.columns + side) · c.
// Budget    64 registers, four blocks a multiprocessor.

#include "lrn_window.cuh"
#include "pool_window.cuh"

constexpr int THREADS = 256;

// Backward: windows of a tile, and how an image is cut into them.
struct Tile {
    int rows, columns;    // of windows
    int down, across;     // tiles of an image
    int overlap, side;    // rows of windows over a pixel; columns beside the first
};

template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)
    pool_lrn_forward(const T* __restrict__ x, T* __restrict__ u, u8* __restrict__ argmax,
                     T* __restrict__ y, Pooling shape, int blocks, int size,
                     accumulator<T> share, accumulator<T> beta, accumulator<T> k) {
    using A = accumulator<T>;
    extern __shared__ __align__(16) unsigned char memory[];
    A* row = reinterpret_cast<A*>(memory) + threadIdx.y * shape.c;
    i64 image = blockIdx.x / blocks;
    int place = blockIdx.x % blocks * blockDim.y + threadIdx.y;
    bool inside = place < shape.p * shape.q;
    i64 out = (image * shape.p * shape.q + place) * shape.c;
    u += out, argmax += out, y += out;
    x += image * shape.h * shape.w * shape.c;
    if (inside)
        for (int i = W * threadIdx.x; i < shape.c; i += W * blockDim.x) {
            Largest<T, W> found = largest<W>(x + i, shape, place / shape.q, place % shape.q);
            store(u + i, found.value);
            store(argmax + i, found.place);
            store(row + i, cast<A>(found.value));
        }
    __syncthreads();
    if (inside)
        for (int i = W * threadIdx.x; i < shape.c; i += W * blockDim.x) {
            Vec<A, W> value = load<W>(row + i);
            Vec<A, W> s = scales<W>(row, i, shape.c, size / 2, share, k);
#pragma unroll
            for (int e = 0; e < W; e++) value.at[e] *= power(s.at[e], beta);
            store(y + i, cast<T>(value));
        }
}

template <typename A>
struct Numbers {
    int half;
    A share, slope, beta, k;
};

// du of `columns` neighbouring windows, by all threads of a block; ratios is room for as many.
template <int W, typename T, typename A>
__device__ __forceinline__ void lrn_gradient(const T* dy, const T* u, A* ratios, A* du,
                                             int columns, int c, const Numbers<A>& lrn) {
    for (int q = threadIdx.y; q < columns; q += blockDim.y)
        for (int i = W * threadIdx.x; i < c; i += W * blockDim.x) {
            int at = q * c + i;
            Vec<A, W> s = scales<W>(u + q * c, i, c, lrn.half, lrn.share, lrn.k);
            Vec<A, W> value = cast<A>(load<W>(u + at)), d = cast<A>(load<W>(dy + at));
#pragma unroll
            for (int e = 0; e < W; e++) {
                d.at[e] *= power(s.at[e], lrn.beta);
                value.at[e] *= quick_ratio(d.at[e], s.at[e]);
            }
            store(du + at, d);
            store(ratios + at, value);
        }
    __syncthreads();
    for (int q = threadIdx.y; q < columns; q += blockDim.y)
        for (int i = W * threadIdx.x; i < c; i += W * blockDim.x) {
            int at = q * c + i;
            auto itself = [](A ratio) { return ratio; };
            Vec<A, W> sums = window_sums<W>(ratios + q * c, i, c, lrn.half, itself);
            Vec<A, W> value = cast<A>(load<W>(u + at)), d = load<W>(du + at);
#pragma unroll
            for (int e = 0; e < W; e++)
                d.at[e] = value.at[e] > 0 ? d.at[e] - lrn.slope * value.at[e] * sums.at[e] : 0;
            store(du + at, d);
        }
    __syncthreads();
}

template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)
    pool_lrn_backward(const T* __restrict__ dy, const T* __restrict__ u,
                      const u8* __restrict__ argmax, T* __restrict__ dx, Pooling shape,
                      Tile tile, int size, accumulator<T> share, accumulator<T> slope,
                      accumulator<T> beta, accumulator<T> k) {
    using A = accumulator<T>;
    extern __shared__ __align__(16) unsigned char memory[];
    int c = shape.c, width = (tile.columns + tile.side) * c;
    A* ratios = reinterpret_cast<A*>(memory);  // of one row of windows
    A* ring = ratios + width;                  // du of row p in row p % overlap

    int across = blockIdx.x % tile.across, down = blockIdx.x / tile.across % tile.down;
    i64 image = blockIdx.x / tile.across / tile.down;
    int first_p = down * tile.rows, end_p = min(first_p + tile.rows, shape.p);
    int first_q = across * tile.columns, end_q = min(first_q + tile.columns, shape.q);
    int from_q = max(first_q - tile.side, 0);
    int left = max(first_q * shape.stride[1] - shape.pad[1], 0);
    int right = end_q < shape.q ? max(end_q * shape.stride[1] - shape.pad[1], 0) : shape.w;

    i64 windows = image * shape.p * shape.q * c;
    dy += windows, u += windows, argmax += windows;
    dx += image * shape.h * shape.w * c;

    for (int p = max(first_p - tile.overlap + 1, 0); p < end_p; p++) {
        int row_at = (p * shape.q + from_q) * c;
        A* du = ring + remainder(p, tile.overlap) * width;
        lrn_gradient<W>(dy + row_at, u + row_at, ratios, du,
                        end_q - from_q, c, Numbers<A>{size / 2, share, slope, beta, k});
        if (p < first_p) continue;
        int top = max(p * shape.stride[0] - shape.pad[0], 0);
        int bottom = p + 1 < shape.p ? (p + 1) * shape.stride[0] - shape.pad[0] : shape.h;
        for (int row = top; row < bottom; row++)  // none as long as bottom is in the pad
            for (int column = left + threadIdx.y; column < right; column += blockDim.y)
                for (int i = W * threadIdx.x; i < c; i += W * blockDim.x) {
                    auto gradient = [&](int p, int q) {
                        int slot = remainder(p, tile.overlap);
                        return load<W>(ring + slot * width + (q - from_q) * c + i);
                    };
                    auto place = [&](int p, int q) {
                        return load<W>(argmax + (p * shape.q + q) * c + i);
                    };
                    Vec<A, W> sum = gather<A, W>(shape, row, column, gradient, place);
                    store(dx + (row * shape.w + column) * c + i, cast<T>(sum));
                }
        __syncthreads();  // before the ring's oldest row is made anew
    }
}

INSTANTIATE(pool_lrn_forward<float, 4>, pool_lrn_forward<float, 1>);
INSTANTIATE(pool_lrn_forward<double, 2>, pool_lrn_forward<double, 1>);
INSTANTIATE(pool_lrn_forward<bf16, 8>, pool_lrn_forward<bf16, 1>);
INSTANTIATE(pool_lrn_backward<float, 4>, pool_lrn_backward<float, 1>);
INSTANTIATE(pool_lrn_backward<double, 2>, pool_lrn_backward<double, 1>);
INSTANTIATE(pool_lrn_backward<bf16, 8>, pool_lrn_backward<bf16, 1>);
