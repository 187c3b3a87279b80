// Local response normalisation across channels, forward and backward.
//
// Formula   scale = k + share · Σ x²   over the window of `size` channels around each,
//           y = x · scale^-beta,       channels beyond the ends counting as zero,
//           share = alpha/size;
//           dx = dy · scale^-beta − slope · x · Σ dy·y/scale   over the window,
//           slope = 2·alpha·beta/size.
//           (Krizhevsky et al., NIPS 2012, section 3.3; alpha/size as in Caffe.)
// Layout    NHWC: a row is the c channels of one place; x, y, scale, dy, dx (rows, c).
// Mapping   One block takes blockDim.y rows; threadIdx.x walks over their channels, W at a time.
//           What the window sums is computed once into shared memory; then each thread reads
//           the vectors that its W windows touch. Every array is read from memory once (what a
//           thread needs again is in its cache), and y not at all backward: x·scale^-beta is it.
// Assumes   size odd; c a multiple of W; arrays begin at multiples of 16 bytes; dynamic shared
//           memory of blockDim.y · c values of T. The order of the sum is that of the channels,
//           so results do not depend on the launch.
// Budget    64 registers, four blocks a multiprocessor.

#include "common.cuh"

constexpr int THREADS = 256;

// scale^-beta, and for the published beta = 0.75 without a pow: r·sqrt(r) with r = 1/sqrt(s).
template <typename T>
__device__ __forceinline__ T power(T scale, T beta) {
    if (beta == T(0.75)) {
        T r = rsqrt(scale);
        return r * sqrt(r);
    }
    return pow(scale, -beta);
}

// Σ of a row's values over the windows around channels i to i + W − 1, in channel order.
template <int W, typename T>
__device__ __forceinline__ Vec<T, W> window_sums(const T* row, int i, int c, int half) {
    Vec<T, W> sums;
    for (int e = 0; e < W; e++) sums.at[e] = 0;
    int first = max(i - half, 0) / W * W, last = min(i + W - 1 + half, c - 1);
    for (int j = first; j <= last; j += W) {
        Vec<T, W> values = load<W>(row + j);
#pragma unroll
        for (int near = 0; near < W; near++)
#pragma unroll
            for (int e = 0; e < W; e++) {
                int distance = j + near - (i + e);
                if (-half <= distance && distance <= half) sums.at[e] += values.at[near];
            }
    }
    return sums;
}

template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)
    lrn_forward(const T* __restrict__ x, T* __restrict__ y, T* __restrict__ scale, i64 rows,
                int c, int size, T share, T beta, T k) {
    extern __shared__ __align__(16) unsigned char memory[];
    T* squares = reinterpret_cast<T*>(memory) + threadIdx.y * c;
    i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
    if (row < rows)
        for (int i = W * threadIdx.x; i < c; i += W * blockDim.x) {
            Vec<T, W> value = load<W>(x + row * c + i);
#pragma unroll
            for (int e = 0; e < W; e++) value.at[e] *= value.at[e];
            store(squares + i, value);
        }
    __syncthreads();
    if (row < rows)
        for (int i = W * threadIdx.x; i < c; i += W * blockDim.x) {
            Vec<T, W> value = load<W>(x + row * c + i);
            Vec<T, W> s = window_sums<W>(squares, i, c, size / 2);
#pragma unroll
            for (int e = 0; e < W; e++) {
                s.at[e] = k + share * s.at[e];
                value.at[e] *= power(s.at[e], beta);
            }
            store(scale + row * c + i, s);
            store(y + row * c + i, value);
        }
}

template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)
    lrn_backward(const T* __restrict__ x, const T* __restrict__ scale,
                 const T* __restrict__ dy, T* __restrict__ dx, i64 rows, int c, int size,
                 T slope, T beta) {
    extern __shared__ __align__(16) unsigned char memory[];
    T* ratios = reinterpret_cast<T*>(memory) + threadIdx.y * c;
    i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
    if (row < rows)
        for (int i = W * threadIdx.x; i < c; i += W * blockDim.x) {
            i64 at = row * c + i;
            Vec<T, W> value = load<W>(x + at), s = load<W>(scale + at), d = load<W>(dy + at);
#pragma unroll
            for (int e = 0; e < W; e++)
                value.at[e] *= d.at[e] * power(s.at[e], beta) / s.at[e];
            store(ratios + i, value);
        }
    __syncthreads();
    if (row < rows)
        for (int i = W * threadIdx.x; i < c; i += W * blockDim.x) {
            i64 at = row * c + i;
            Vec<T, W> sums = window_sums<W>(ratios, i, c, size / 2);
            Vec<T, W> value = load<W>(x + at), s = load<W>(scale + at), d = load<W>(dy + at);
#pragma unroll
            for (int e = 0; e < W; e++)
                d.at[e] = d.at[e] * power(s.at[e], beta) - slope * value.at[e] * sums.at[e];
            store(dx + at, d);
        }
}

INSTANTIATE(lrn_forward<float, 4>, lrn_forward<float, 1>);
INSTANTIATE(lrn_forward<double, 2>, lrn_forward<double, 1>);
INSTANTIATE(lrn_backward<float, 4>, lrn_backward<float, 1>);
INSTANTIATE(lrn_backward<double, 2>, lrn_backward<double, 1>);
