// Convolution with groups (cross-correlation), forward and both gradients, as implicit GEMM.
//
// Formula   y[n,p,q,k]  = b[k] + Σ_{r,s,c} x[n, p·stride−pad+r, q·stride−pad+s, c] · w[k,r,s,c],
//           then max(y, 0) if asked for; dx, dw and db are its gradients. x is zero beyond
//           its edges; channels c and features k run within a group.
// Layout    NHWC: x, dx (N,H,W,C); w, dw (K,R,S,C/groups); y, dy (N,P,Q,K); b, db (K).
// Types     T of all arrays but dw and db, which are sums: bf16 gives float. double and float
//           are multiplied by multiply-adds (gemm_tile.cuh), bf16, tf32 and tf32x3 by tensor
//           cores (gemm_mma.cuh). tf32 and tf32x3 arrays are float; what is multiplied of their
//           numbers has 11 significant bits, or 22.
// Product   A convolution is a matrix product whose operands are read from where they lie
//           (no patch matrix is ever written), one product for each group:
//
//             kernel            M             N                 K
//             forward           n,p,q         features          r,s,channels
//                               A = x's patches, B = w
//             backward_data     n,h,w         channels          r,s,features
//                               A = dy's patches, B = w, both at the taps that meet pixel h,w
//             backward_weights  features      r,s,channels      n,p,q
//                               A = dy, B = x's patches; db is the sums of A's lines
//
//           With stride > 1, pixel h meets only the taps r with (h + pad − r) % stride == 0.
//           So backward_data treats the pixels of each phase (h + pad) % stride apart: each
//           is a product with those taps alone, and nothing is multiplied by zeros between.
// Mapping   grid.x = tiles of M × tiles of N, N fastest, so that the blocks that run at one
//           time share A; grid.y = groups; grid.z = slices of K × phases (of backward_data),
//           phases fastest. A block computes one tile, BM × BN.
// Sums      A weight gradient has few tiles and a long K, a fully connected layer too. Slices
//           of K make blocks enough; each writes its partial sums. The solver's update (sgd.cu)
//           adds a gradient's in the order of slices, add_slices those of y and dx. No atomics:
//           the same bits in every run.
// Assumes   arrays aligned to 16 bytes. VEC numbers of 16 bytes are read and written as one:
//           channels and features of a group must then be multiples of VEC; VEC = 1 takes
//           any shape. Below 2^31: M, N, K, the size of w, and how far a patch, and 256 of them,
//           reach in x or dy. (ConvShape.fields checks it; x, y, dx and dy may be larger.)
//           Tensor cores: dynamic shared memory as Plan.shared_bytes has it, sm_80 at least.
// Budget    128 registers, no spills: two blocks of 256 threads on a multiprocessor. With
//           tensor cores 255: 8 warps on it, each thread with up to 128 sums.

#include "conv_views.cuh"
#include "gemm_mma.cuh"
#include "gemm_tile.cuh"

// What multiplies numbers of type T.
template <typename T, int BM, int BN>
struct TileOf : Tile<T, BM, BN> {};
template <int BM, int BN>
struct TileOf<bf16, BM, BN> : MmaTile<bf16, BM, BN> {};
template <int BM, int BN>
struct TileOf<tf32, BM, BN> : MmaTile<tf32, BM, BN> {};
template <int BM, int BN>
struct TileOf<tf32x3, BM, BN> : MmaTile<tf32x3, BM, BN> {};

// Where a block's tile starts. Tiles of N are neighbours. Made again after a product, not kept.
template <int BM, int BN>
struct Corner {
    int m, n;
    __device__ __forceinline__ explicit Corner(int n_end) {
        int across = ceil_div(n_end, BN), tile = anew(blockIdx.x);
        m = tile / across * BM;
        n = tile % across * BN;
    }
};

// What becomes of sums side by side, of columns n, n+1, …, before they are written to out[at].
template <typename T>
struct Finish {
    const T* bias;  // or null
    bool relu;
    const T* relu_y;  // a ReLU's output, as large as out, or null
    template <typename Acc, int W>
    __device__ __forceinline__ void operator()(Vec<Acc, W>& sums, int n, i64 at) const {
        Vec<T, W> add = {}, output = {};
        if (bias) add = load<W>(bias + n);
        if (relu_y) output = load<W>(relu_y + at);
#pragma unroll
        for (int v = 0; v < W; v++) {
            if (bias) sums.at[v] += Acc(add.at[v]);
            if (relu && sums.at[v] < 0) sums.at[v] = 0;  // NaN stays NaN
            if (relu_y && !(Acc(output.at[v]) > 0)) sums.at[v] = 0;
        }
    }
};
struct AsTheyAre {
    template <typename Sums>
    __device__ __forceinline__ void operator()(Sums&, int, i64) const {}
};

// partial: null, or slice i's place, of `steps` · BK products, is from i · y's size on, and y is
// left to add_slices. So in conv_backward_data.
template <typename T, int BM, int BN, int VEC>
__global__ __launch_bounds__(TileOf<T, BM, BN>::THREADS, TileOf<T, BM, BN>::BLOCKS)
void conv_forward(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b,
                  bool relu, T* __restrict__ y, accumulator<T>* __restrict__ partial,
                  ConvShape shape, int steps) {
    using Product = TileOf<T, BM, BN>;
    int group = blockIdx.y, features = shape.features, depth = shape.depth;
    int pixels = shape.n * shape.p * shape.q, taps = shape.r * shape.s * depth;
    Corner<BM, BN> corner(features);
    int first = blockIdx.z * steps * Product::BK;

    Patches patches = patches_of_x(shape);
    AlongK<Product, BM, VEC, PatchLines> A(corner.m, first, x, patches, pixels, group * depth);
    AlongK<Product, BN, VEC, MatrixLines> B(corner.n, first, w, group * features * taps,
                                            features, taps);
    Product product;
    product.multiply(A, B, steps);

    corner = Corner<BM, BN>(features);
    auto row_at = [&](int m) { return (i64)m * shape.k + group * features; };
    Finish<T> finish{b ? b + group * features : nullptr, relu, nullptr};
    if (partial)
        product.template write<VEC>(partial + blockIdx.z * ((i64)pixels * shape.k), corner.m,
                                    pixels, corner.n, features, row_at, AsTheyAre());
    else
        product.template write<VEC>(y, corner.m, pixels, corner.n, features, row_at, finish);
}

// The pixels of one phase, and a block's tile of them.
template <int BM, int BN>
struct Phase {
    int h, w;
    Patches patches;
    int pixels;
    Corner<BM, BN> corner;
    __device__ __forceinline__ Phase(const ConvShape& shape, int phase)
        : h(phase / shape.stride_w),
          w(phase % shape.stride_w),
          patches(patches_of_dy(shape, h, w)),
          pixels(shape.n * patches.vertical.pixels * patches.horizontal.pixels),
          corner(shape.depth) {}
};

// relu_y: where it is not positive, dx is 0: x, if x is a ReLU's output; null: no ReLU.
template <typename T, int BM, int BN, int VEC>
__global__ __launch_bounds__(TileOf<T, BM, BN>::THREADS, TileOf<T, BM, BN>::BLOCKS)
void conv_backward_data(const T* __restrict__ dy, const T* __restrict__ w,
                        const T* __restrict__ relu_y, T* __restrict__ dx,
                        accumulator<T>* __restrict__ partial, ConvShape shape, int steps) {
    using Product = TileOf<T, BM, BN>;
    int group = blockIdx.y, features = shape.features, depth = shape.depth;
    int phases = shape.stride_h * shape.stride_w;
    Phase<BM, BN> phase(shape, blockIdx.z % phases);
    const Patches& patches = phase.patches;
    int m = phase.corner.m, taps = patches.vertical.taps * patches.horizontal.taps;
    if (m >= phase.pixels) return;  // the grid is as large as the largest phase

    int k = blockIdx.z / phases * steps * Product::BK, left = taps * features - k;
    Product product;
    if (left > 0) {
        AlongK<Product, BM, VEC, PatchLines> A(m, k, dy, patches, phase.pixels, group * features);
        int first = (group * features * shape.r + phase.h) * shape.s + phase.w;
        AcrossK<Product, BN, VEC, FilterTaps> B(phase.corner.n, k, w, shape, patches,
                                                first * depth);
        product.multiply(A, B, min(steps, ceil_div(left, Product::BK)));
    }

    int z = anew(blockIdx.z);
    Phase<BM, BN> same(shape, z % phases);
    int first_h = first_of_phase(same.h, shape.pad_h, shape.stride_h);
    int first_w = first_of_phase(same.w, shape.pad_w, shape.stride_w);
    auto row_at = [&](int m) {
        Odometer at(m, same.patches.vertical.pixels, same.patches.horizontal.pixels);
        i64 line = (i64)at.high * shape.h + first_h + at.mid * shape.stride_h;
        int column = first_w + at.low * shape.stride_w;
        return (line * shape.w + column) * shape.c + group * depth;
    };
    if (partial) {
        i64 size = (i64)shape.n * shape.h * shape.w * shape.c;
        product.template write<VEC>(partial + z / phases * size, same.corner.m, same.pixels,
                                    same.corner.n, depth, row_at, AsTheyAre());
    } else {
        product.template write<VEC>(dx, same.corner.m, same.pixels, same.corner.n, depth, row_at,
                                    Finish<T>{nullptr, false, relu_y});
    }
}

// out: y or dx, of its slices' sums, `size` numbers each, in rows of `columns`.
template <typename T>
__global__ void add_slices(const accumulator<T>* __restrict__ partial, const T* __restrict__ b,
                           bool relu, const T* __restrict__ relu_y, T* __restrict__ out,
                           i64 size, int columns, int slices) {
    constexpr int VEC = PART<T>;
    for (i64 i = VEC * global_thread(); i < size; i += VEC * grid_threads()) {
        Vec<accumulator<T>, VEC> sums = load<VEC>(partial + i);
#pragma unroll 4
        for (int slice = 1; slice < slices; slice++) {
            Vec<accumulator<T>, VEC> more = load<VEC>(partial + slice * size + i);
#pragma unroll
            for (int v = 0; v < VEC; v++) sums.at[v] += more.at[v];
        }
        Finish<T>{b, relu, relu_y}(sums, (int)(i % columns), i);
        store<VEC>(out + i, cast<T>(sums));
    }
}

// dw: slice i, from i · apart on, is (K,R,S,C/groups), the sums over the pixels from i · steps · BK
// on. One beyond the last pixel is zero. db, or null: likewise, (K) from i · db_apart on, of the
// lines of dy that the leftmost tiles have copied anyway.
template <typename T, int BM, int BN, int VEC>
__global__ __launch_bounds__(TileOf<T, BM, BN>::THREADS, TileOf<T, BM, BN>::BLOCKS)
void conv_backward_weights(const T* __restrict__ x, const T* __restrict__ dy,
                           accumulator<T>* __restrict__ dw, accumulator<T>* __restrict__ db,
                           ConvShape shape, i64 apart, i64 db_apart, int steps) {
    using Product = TileOf<T, BM, BN>;
    int group = blockIdx.y, features = shape.features, depth = shape.depth;
    int pixels = shape.n * shape.p * shape.q, taps = shape.r * shape.s * depth;
    int first = min((int)blockIdx.z * steps * Product::BK, pixels);
    int last = first + min(steps * Product::BK, pixels - first);
    Corner<BM, BN> corner(taps);

    AcrossK<Product, BM, VEC, MatrixColumns> A(corner.m, first, dy, group * features, features,
                                               shape.k, last);
    AcrossK<Product, BN, VEC, PatchColumns> B(corner.n, first, x, patches_of_x(shape), last,
                                              group * depth);
    Product product;
    int needed = ceil_div(last - first, Product::BK);
    if (db && corner.n == 0) {  // a loop of its own: the others shall not wait for a sum
        Summed<decltype(A)> summed(A);
        product.multiply(summed, B, needed);
        summed.finish([&](int line, accumulator<T> sum) {
            int m = Corner<BM, BN>(taps).m + line;
            if (m < features) db[blockIdx.z * db_apart + group * features + m] = sum;
        });
    } else {
        product.multiply(A, B, needed);
    }

    corner = Corner<BM, BN>(taps);
    i64 slice = blockIdx.z * apart + (i64)group * features * taps;
    auto row_at = [&](int m) { return slice + (i64)m * taps; };
    product.template write<VEC>(dw, corner.m, features, corner.n, taps, row_at, AsTheyAre());
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
INSTANTIATE(conv_forward<bf16, 256, 128, 8>, conv_forward<bf16, 256, 96, 8>,
            conv_forward<bf16, 128, 64, 8>, conv_forward<bf16, 32, 64, 1>);
INSTANTIATE(conv_backward_data<bf16, 256, 128, 8>, conv_backward_data<bf16, 256, 96, 8>,
            conv_backward_data<bf16, 256, 48, 8>, conv_backward_data<bf16, 128, 64, 8>,
            conv_backward_data<bf16, 32, 64, 1>);
INSTANTIATE(conv_backward_weights<bf16, 128, 256, 8>, conv_backward_weights<bf16, 192, 128, 8>,
            conv_backward_weights<bf16, 128, 128, 8>, conv_backward_weights<bf16, 128, 64, 8>,
            conv_backward_weights<bf16, 32, 64, 1>);
INSTANTIATE(conv_forward<tf32, 256, 128, 4>, conv_forward<tf32, 256, 96, 4>,
            conv_forward<tf32, 128, 64, 4>);
INSTANTIATE(conv_backward_data<tf32, 256, 128, 4>, conv_backward_data<tf32, 256, 96, 4>,
            conv_backward_data<tf32, 256, 48, 4>, conv_backward_data<tf32, 128, 64, 4>);
INSTANTIATE(conv_backward_weights<tf32, 128, 256, 4>, conv_backward_weights<tf32, 192, 128, 4>,
            conv_backward_weights<tf32, 128, 128, 4>, conv_backward_weights<tf32, 128, 64, 4>);
INSTANTIATE(conv_forward<tf32x3, 128, 96, 4>, conv_forward<tf32x3, 128, 64, 4>,
            conv_backward_data<tf32x3, 128, 96, 4>, conv_backward_data<tf32x3, 128, 48, 4>,
            conv_backward_data<tf32x3, 128, 64, 4>, conv_backward_weights<tf32x3, 96, 64, 4>,
            conv_backward_weights<tf32x3, 128, 64, 4>);
INSTANTIATE(add_slices<float>, add_slices<double>, add_slices<bf16>);
INSTANTIATE(relu_backward<float>, relu_backward<double>, relu_backward<bf16>);
