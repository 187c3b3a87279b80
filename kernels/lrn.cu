// Local response normalisation across channels, forward and backward.
//
// Formula   scale = k + share · Σ x²   over the window of `size` channels around each,
//           y = x · scale^-beta,       channels beyond the ends counting as zero,
//           share = alpha/size;
//           dx = dy · scale^-beta − slope · x · Σ dy·y/scale   over the window,
//           slope = 2·alpha·beta/size.
//           (Krizhevsky et al., NIPS 2012, section 3.3; alpha/size as in Caffe.)
// Layout    NHWC: a row is the c channels of one place; x, y, scale, dy, dx (rows, c). scale
//           is of the accumulator type: rounded, it would spoil dx where its terms cancel out.
// Mapping   One block takes blockDim.y rows; threadIdx.x walks over their channels, W at a time.
//           Forward, what a window sums are squares: each thread squares its neighbours anew,
//           which lie in its cache. Backward, they are ratios: computed once into shared memory.
//           Every array is read from memory once, and y not at all backward: x·scale^-beta is it.
// Assumes   size odd; c a multiple of W; arrays begin at multiples of 16 bytes; backward,
//           dynamic shared memory of blockDim.y · c sums. All arithmetic is in the accumulator
//           type. The order of a sum is that of the channels: it does not depend on the launch.
// Budget    64 registers, four blocks a multiprocessor.

#include "lrn_window.cuh"

constexpr int THREADS = 256;

template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)
    lrn_forward(const T* __restrict__ x, T* __restrict__ y, accumulator<T>* __restrict__ scale,
                i64 rows, int c, int size, accumulator<T> share, accumulator<T> beta,
                accumulator<T> k) {
    using A = accumulator<T>;
    i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    for (int i = W * threadIdx.x; i < c; i += W * blockDim.x) {
        i64 at = row * c + i;
        Vec<A, W> value = cast<A>(load<W>(x + at));
        Vec<A, W> s = scales<W>(x + row * c, i, c, size / 2, share, k);
#pragma unroll
        for (int e = 0; e < W; e++) value.at[e] *= power(s.at[e], beta);
        store(scale + at, s);
        store(y + at, cast<T>(value));
    }
}

template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)
    lrn_backward(const T* __restrict__ x, const accumulator<T>* __restrict__ scale,
                 const T* __restrict__ dy, T* __restrict__ dx, i64 rows, int c, int size,
                 accumulator<T> slope, accumulator<T> beta) {
    using A = accumulator<T>;
    extern __shared__ __align__(16) unsigned char memory[];
    A* ratios = reinterpret_cast<A*>(memory) + threadIdx.y * c;
    i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
    if (row < rows)
        for (int i = W * threadIdx.x; i < c; i += W * blockDim.x) {
            i64 at = row * c + i;
            Vec<T, W> value = load<W>(x + at), d = load<W>(dy + at);
            Vec<A, W> s = load<W>(scale + at), ratio;
#pragma unroll
            for (int e = 0; e < W; e++)
                ratio.at[e] = A(value.at[e]) * A(d.at[e]) *
                              quick_ratio(power(s.at[e], beta), s.at[e]);
            store(ratios + i, ratio);
        }
    __syncthreads();
    if (row < rows)
        for (int i = W * threadIdx.x; i < c; i += W * blockDim.x) {
            i64 at = row * c + i;
            auto itself = [](A ratio) { return ratio; };
            Vec<A, W> sums = window_sums<W>(ratios, i, c, size / 2, itself);
            Vec<T, W> value = load<W>(x + at), d = load<W>(dy + at);
            Vec<A, W> s = load<W>(scale + at);
#pragma unroll
            for (int e = 0; e < W; e++)
                sums.at[e] = A(d.at[e]) * power(s.at[e], beta) -
                             slope * A(value.at[e]) * sums.at[e];
            store(dx + at, cast<T>(sums));
        }
}

INSTANTIATE(lrn_forward<float, 4>, lrn_forward<float, 1>);
INSTANTIATE(lrn_forward<double, 2>, lrn_forward<double, 1>);
INSTANTIATE(lrn_forward<bf16, 8>, lrn_forward<bf16, 1>);
INSTANTIATE(lrn_backward<float, 4>, lrn_backward<float, 1>);
INSTANTIATE(lrn_backward<double, 2>, lrn_backward<double, 1>);
INSTANTIATE(lrn_backward<bf16, 8>, lrn_backward<bf16, 1>);
