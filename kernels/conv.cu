// Convolution with groups (cross-correlation), forward and both gradients, as implicit GEMM.
//
// Formula   y[n,p,q,k]  = b[k] + Σ_{r,s,c} x[n, p·stride−pad+r, q·stride−pad+s, c] · w[k,r,s,c],
//           then max(y, 0) if asked for; dx, dw and db are its gradients. x is zero beyond
//           its edges; channels c and features k run within a group.
// Layout    NHWC: x, dx (N,H,W,C); w, dw (K,R,S,C/groups); y, dy (N,P,Q,K); b, db (K).
// Product   A convolution is a matrix product whose operands are read from where they lie
//           (no patch matrix is ever written), one product for each group:
//
//             kernel            M             N                 K
//             forward           n,p,q         features          r,s,channels
//                               A = x's patches, B = w
//             backward_data     n,h,w         channels          r,s,features
//                               A = dy's patches, B = w, both at the taps that meet pixel h,w
//             backward_weights  features      r,s,channels      n,p,q
//                               A = dy, B = x's patches
//
//           With stride > 1, pixel h meets only the taps r with (h + pad − r) % stride == 0.
//           So backward_data treats the pixels of each phase (h + pad) % stride apart: each
//           is a product with those taps alone, and nothing is multiplied by zeros between.
// Mapping   grid.x = tiles of M × tiles of N, N fastest, so that the blocks that run at one
//           time share A; grid.y = groups; grid.z = phases (backward_data) or slices of K
//           (backward_weights). A block computes one tile (gemm_tile.cuh), BM × BN.
// Sums      A weight gradient has few tiles and a long K. Slices of K make blocks enough;
//           each writes its partial sums, and sum_slices adds them in the order of slices.
//           No atomics: the same bits in every run.
// Assumes   arrays aligned to 16 bytes. VEC numbers of 16 bytes are read and written as one:
//           channels and features of a group must then be multiples of VEC; VEC = 1 takes
//           any shape. Below 2^31: M, N, K, the size of w, and how far a patch reaches in x
//           or dy. (ConvShape.fields checks it; x, y, dx and dy may be larger.)
// Budget    128 registers, no spills: two blocks of 256 threads on a multiprocessor.

#include "conv_views.cuh"
#include "gemm_tile.cuh"

// Where a block's tile starts. Tiles of N are neighbours.
template <int BM, int BN>
struct Corner {
    int m, n;
    __device__ __forceinline__ explicit Corner(int n_end) {
        int across = ceil_div(n_end, BN);
        m = (int)(blockIdx.x / across) * BM;
        n = (int)(blockIdx.x % across) * BN;
    }
};

template <typename T, int BM, int BN, int VEC>
__global__ __launch_bounds__(GEMM_THREADS, 2) void conv_forward(
    const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b,
    T* __restrict__ y, ConvShape shape, bool relu) {
    using Acc = accumulator<T>;
    int group = blockIdx.y, features = shape.features, depth = shape.depth;
    int pixels = shape.n * shape.p * shape.q, taps = shape.r * shape.s * depth;
    Corner<BM, BN> corner(features);

    Patches patches = patches_of_x(shape);
    AlongK<T, BM, VEC, PatchLines> A(corner.m, 0, x, patches, pixels, group * depth);
    AlongK<T, BN, VEC, MatrixLines> B(corner.n, 0, w, group * features * taps, features, taps);
    Tile<T, BM, BN> tile;
    tile.multiply(A, B, ceil_div(taps, BK));

    const T* bias = b ? b + group * features : nullptr;
    auto row_of = [&](int m) { return y + (i64)m * shape.k + group * features; };
    auto finish = [&](Acc sum, int n) {
        if (bias) sum += Acc(bias[n]);
        return relu && sum < 0 ? Acc(0) : sum;  // NaN stays NaN
    };
    tile.template write<VEC>(corner.m, pixels, corner.n, features, row_of, finish);
}

template <typename T, int BM, int BN, int VEC>
__global__ __launch_bounds__(GEMM_THREADS, 2) void conv_backward_data(
    const T* __restrict__ dy, const T* __restrict__ w, T* __restrict__ dx, ConvShape shape) {
    int group = blockIdx.y, features = shape.features, depth = shape.depth;
    int phase_h = blockIdx.z / shape.stride_w, phase_w = blockIdx.z % shape.stride_w;
    Patches patches = patches_of_dy(shape, phase_h, phase_w);
    int pixels = shape.n * patches.vertical.pixels * patches.horizontal.pixels;
    int taps = patches.vertical.taps * patches.horizontal.taps;
    Corner<BM, BN> corner(depth);
    if (corner.m >= pixels) return;  // the grid is as large as the largest phase

    Tile<T, BM, BN> tile;
    if (taps > 0) {
        AlongK<T, BM, VEC, PatchLines> A(corner.m, 0, dy, patches, pixels, group * features);
        int first = (group * features * shape.r + phase_h) * shape.s + phase_w;
        AcrossK<T, BN, VEC, FilterTaps> B(corner.n, 0, w, shape, patches, first * depth);
        tile.multiply(A, B, ceil_div(taps * features, BK));
    }

    int first_h = first_of_phase(phase_h, shape.pad_h, shape.stride_h);
    int first_w = first_of_phase(phase_w, shape.pad_w, shape.stride_w);
    auto row_of = [&](int m) {
        Odometer at(m, patches.vertical.pixels, patches.horizontal.pixels);
        i64 line = (i64)at.high * shape.h + first_h + at.mid * shape.stride_h;
        int column = first_w + at.low * shape.stride_w;
        return dx + (line * shape.w + column) * shape.c + group * depth;
    };
    auto finish = [](accumulator<T> sum, int) { return sum; };
    tile.template write<VEC>(corner.m, pixels, corner.n, depth, row_of, finish);
}

// partial (slices, K,R,S,C/groups): slice i sums the pixels from i · steps · BK on.
template <typename T, int BM, int BN, int VEC>
__global__ __launch_bounds__(GEMM_THREADS, 2) void conv_backward_weights(
    const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ partial,
    ConvShape shape, int steps) {
    int group = blockIdx.y, features = shape.features, depth = shape.depth;
    int pixels = shape.n * shape.p * shape.q, taps = shape.r * shape.s * depth;
    int first = blockIdx.z * steps * BK, last = first + min(steps * BK, pixels - first);
    Corner<BM, BN> corner(taps);

    AcrossK<T, BM, VEC, MatrixColumns> A(corner.m, first, dy + group * features, features,
                                         shape.k, last);
    AcrossK<T, BN, VEC, PatchColumns> B(corner.n, first, x + group * depth, patches_of_x(shape),
                                        last);
    Tile<T, BM, BN> tile;
    tile.multiply(A, B, ceil_div(last - first, BK));

    T* out = partial + ((i64)blockIdx.z * shape.k + group * features) * taps;
    auto row_of = [&](int m) { return out + (i64)m * taps; };
    auto finish = [](accumulator<T> sum, int) { return sum; };
    tile.template write<VEC>(corner.m, features, corner.n, taps, row_of, finish);
}

// out[i] = Σ partial[slice, i], slices in order; one thread for each i.
template <typename T>
__global__ void sum_slices(const T* __restrict__ partial, T* __restrict__ out, i64 count,
                           int slices) {
    i64 i = global_thread();
    if (i >= count) return;
    accumulator<T> sum = 0;
    for (int slice = 0; slice < slices; slice++) sum += partial[slice * count + i];
    out[i] = T(sum);
}

// partial[slice, k] = Σ of column k of dy over `rows` rows from slice · rows on: db's first
// half. Block: 32 columns × 8 rows; grid: columns ÷ 32 × slices. Each thread sums every
// eighth row, then the eight sums are added in order.
template <typename T>
__global__ void sum_columns(const T* __restrict__ dy, T* __restrict__ partial, i64 rows_end,
                            int columns, i64 rows) {
    __shared__ accumulator<T> sums[8][32];
    int k = blockIdx.x * 32 + threadIdx.x;
    i64 first = blockIdx.y * rows, last = min(first + rows, rows_end);
    accumulator<T> sum = 0;
    if (k < columns)
        for (i64 row = first + threadIdx.y; row < last; row += 8) sum += dy[row * columns + k];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || k >= columns) return;
    for (int i = 1; i < 8; i++) sum += sums[i][threadIdx.x];
    partial[(i64)blockIdx.y * columns + k] = T(sum);
}

// dy ← dy where the ReLU's output y is positive, else 0. 16 bytes at a time, then the rest.
template <typename T>
__global__ void relu_backward(const T* __restrict__ y, T* __restrict__ dy, i64 count) {
    constexpr int VEC = PART<T>;
    i64 whole = count / VEC, rest = count % VEC;
    for (i64 i = global_thread(); i < whole; i += grid_threads()) {
        Vec<T, VEC> out = load<VEC>(y + i * VEC), gradient = load<VEC>(dy + i * VEC);
        for (int v = 0; v < VEC; v++)
            if (!(out.at[v] > T(0))) gradient.at[v] = T(0);
        store<VEC>(dy + i * VEC, gradient);
    }
    i64 i = whole * VEC + global_thread();
    if (global_thread() < rest && !(y[i] > T(0))) dy[i] = T(0);
}

INSTANTIATE(conv_forward<float, 128, 128, 4>, conv_forward<float, 128, 64, 4>,
            conv_forward<float, 128, 32, 4>, conv_forward<float, 128, 64, 1>,
            conv_forward<float, 128, 32, 1>, conv_forward<double, 64, 64, 2>,
            conv_forward<double, 64, 32, 1>);
INSTANTIATE(conv_backward_data<float, 128, 128, 4>, conv_backward_data<float, 128, 64, 4>,
            conv_backward_data<float, 128, 32, 4>, conv_backward_data<float, 128, 64, 1>,
            conv_backward_data<float, 128, 32, 1>, conv_backward_data<double, 64, 64, 2>,
            conv_backward_data<double, 64, 32, 1>);
INSTANTIATE(conv_backward_weights<float, 128, 128, 4>, conv_backward_weights<float, 128, 64, 4>,
            conv_backward_weights<float, 128, 32, 4>, conv_backward_weights<float, 128, 64, 1>,
            conv_backward_weights<float, 128, 32, 1>, conv_backward_weights<double, 64, 64, 2>,
            conv_backward_weights<double, 64, 32, 1>);
INSTANTIATE(sum_slices<float>, sum_slices<double>, sum_columns<float>, sum_columns<double>,
            relu_backward<float>, relu_backward<double>);
