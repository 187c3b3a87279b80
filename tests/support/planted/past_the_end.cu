// Planted bugs: an index one past the end of an array, and a misaligned vector load.
//
// Formula   y[i] = x[i] + x[i+1], the last value alone.
// Layout    x, y (n,).     Mapping   one block of n ≤ 64 threads.
// BUG       the last thread adds x[n], or the value behind the end of the shared array.

#include "common.cuh"

template <typename T, bool BUG>
__global__ void add_next(const T* __restrict__ x, T* __restrict__ y, int n) {
    int i = threadIdx.x;
    bool inside = BUG || i + 1 < n;
    y[i] = x[i] + (inside ? x[i + 1] : T(0));
}

template <typename T, bool BUG>
__global__ void add_next_shared(const T* __restrict__ x, T* __restrict__ y, int n) {
    __shared__ T before[5], row[64], after[64];
    int i = threadIdx.x;
    row[i] = x[i];
    before[0] = after[0] = 0;
    __syncthreads();
    const T* values = row;  // the compiler no longer knows how many there are
    bool inside = BUG || i + 1 < n;
    y[i] = values[i] + (inside ? values[i + 1] : T(0));
}

template <typename T, bool BUG>
__global__ void add_next_dynamic(const T* __restrict__ x, T* __restrict__ y, int n) {
    extern __shared__ __align__(16) unsigned char memory[];
    T* row = reinterpret_cast<T*>(memory);
    int i = threadIdx.x;
    row[i] = x[i];
    __syncthreads();
    bool inside = BUG || i + 1 < n;
    y[i] = row[i] + (inside ? row[i + 1] : T(0));
}

// Writes past the end, which the guards show without AddressSanitizer too.
template <typename T, bool BUG>
__global__ void write_past_shared(T* __restrict__ y) {
    __shared__ T row[32];
    T* values = row;
    values[threadIdx.x + BUG] = 1;
    __syncthreads();
    y[threadIdx.x] = values[threadIdx.x];
}

// A float4 must lie at a multiple of 16 bytes.
template <typename T, bool BUG>
__global__ void copy_four(const T* __restrict__ x, T* __restrict__ y) {
    store<4>(y, load<4>(x + BUG));
}

INSTANTIATE(add_next<float, false>, add_next<float, true>);
INSTANTIATE(add_next_shared<float, false>, add_next_shared<float, true>);
INSTANTIATE(add_next_dynamic<float, false>, add_next_dynamic<float, true>);
INSTANTIATE(write_past_shared<float, false>, write_past_shared<float, true>);
INSTANTIATE(copy_four<float, false>, copy_four<float, true>);
