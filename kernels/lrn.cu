// Local response normalisation across channels, forward and backward.
//
// Formula   scale = k + alpha/size · Σ x²   over the window of `size` channels around each,
//           y = x · scale^-beta,            channels beyond the ends counting as zero;
//           dx = dy · scale^-beta − (2·alpha·beta/size) · x · Σ dy·y/scale   over the window.
//           (Krizhevsky et al., NIPS 2012, section 3.3; alpha/size as in Caffe.)
// Layout    NHWC: a row is the c channels of one place; x, y, scale, dy, dx (rows, c).
// Mapping   One block takes ROWS = blockDim.y rows; threadIdx.x walks over their channels.
//           What the window sums is computed once into shared memory, then each thread adds
//           up its neighbours: `size` reads of shared memory, one of global memory each.
// Assumes   size odd; dynamic shared memory of blockDim.y · c values of T. The order of the
//           sum is that of the channels, so results do not depend on the launch.

#include "common.cuh"

// scale^-beta, and for the published beta = 0.75 without a pow: r·sqrt(r) with r = 1/sqrt(s).
template <typename T>
__device__ __forceinline__ T power(T scale, T beta) {
    if (beta == T(0.75)) {
        T r = rsqrt(scale);
        return r * sqrt(r);
    }
    return pow(scale, -beta);
}

// Σ of values over the window around channel i, in the order of the channels.
template <typename T>
__device__ __forceinline__ T window_sum(const T* values, int i, int c, int half) {
    T sum = 0;
    for (int j = max(i - half, 0); j <= min(i + half, c - 1); j++) sum += values[j];
    return sum;
}

template <typename T>
__global__ void lrn_forward(const T* __restrict__ x, T* __restrict__ y, T* __restrict__ scale,
                            i64 rows, int c, int size, T alpha, T beta, T k) {
    extern __shared__ __align__(16) unsigned char memory[];
    T* squares = reinterpret_cast<T*>(memory) + threadIdx.y * c;
    i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
    if (row < rows)
        for (int i = threadIdx.x; i < c; i += blockDim.x) {
            T value = x[row * c + i];
            squares[i] = value * value;
        }
    __syncthreads();
    if (row < rows)
        for (int i = threadIdx.x; i < c; i += blockDim.x) {
            T s = k + alpha / size * window_sum(squares, i, c, size / 2);
            scale[row * c + i] = s;
            y[row * c + i] = x[row * c + i] * power(s, beta);
        }
}

template <typename T>
__global__ void lrn_backward(const T* __restrict__ x, const T* __restrict__ y,
                             const T* __restrict__ scale, const T* __restrict__ dy,
                             T* __restrict__ dx, i64 rows, int c, int size, T alpha, T beta) {
    extern __shared__ __align__(16) unsigned char memory[];
    T* ratios = reinterpret_cast<T*>(memory) + threadIdx.y * c;
    i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
    if (row < rows)
        for (int i = threadIdx.x; i < c; i += blockDim.x) {
            i64 at = row * c + i;
            ratios[i] = dy[at] * y[at] / scale[at];
        }
    __syncthreads();
    if (row < rows)
        for (int i = threadIdx.x; i < c; i += blockDim.x) {
            i64 at = row * c + i;
            T sum = window_sum(ratios, i, c, size / 2);
            dx[at] = dy[at] * power(scale[at], beta) - 2 * alpha * beta / size * x[at] * sum;
        }
}

INSTANTIATE(lrn_forward<float>, lrn_forward<double>);
INSTANTIATE(lrn_backward<float>, lrn_backward<double>);
