// What several kernel files share: instantiation, scalar types, vector loads, Philox.
#pragma once

#include "ptx.cuh"

// Names the instances of kernel templates that a file offers, for example
//     INSTANTIATE(lrn_forward<float>, lrn_forward<double>);
// To the compiler it means nothing: minicnn/compile/kernel_source.py reads it.
#define INSTANTIATE(...) static_assert(true, "")

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

// bfloat16 and half in memory; arithmetic is done in float.
struct bf16 {
    u16 bits;
    bf16() = default;
    __device__ explicit bf16(float x) : bits(bf16_from_float(x)) {}
    __device__ operator float() const { return bf16_to_float(bits); }
};
struct f16 {
    u16 bits;
    f16() = default;
    __device__ explicit f16(float x) : bits(f16_from_float(x)) {}
    __device__ operator float() const { return f16_to_float(bits); }
};

// A float that is multiplied as tf32, that is with 10 bits of mantissa.
struct tf32 {
    float x;
    tf32() = default;
    __device__ explicit tf32(float x) : x(x) {}
    __device__ operator float() const { return x; }
};

// A float that is multiplied as the sum of two tf32, high + low: with 21 bits of mantissa. Of
// the products all but low · low are made, 2^-22 of the whole: about as exact as float's own.
// An infinity leaves low = infinity − infinity: its sums are NaN.
struct tf32x3 : tf32 {
    using tf32::tf32;
};
template <typename T>
constexpr bool SPLIT = false;
template <>
constexpr bool SPLIT<tf32x3> = true;

// The type that sums of T are kept in.
template <typename T>
struct Accumulator {
    using type = float;
};
template <>
struct Accumulator<double> {
    using type = double;
};
template <typename T>
using accumulator = typename Accumulator<T>::type;

// N values of T that load and store as one; p must be aligned to their size, or 16 bytes if
// they are more.
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vec {
    T at[N];
};
// Small numbers travel as words, or the compiler would make several accesses of one.
template <int BYTES>
struct Word;
template <>
struct Word<2> {
    using type = u16;
};
template <>
struct Word<4> {
    using type = u32;
};
template <>
struct Word<8> {
    using type = uint2;
};
template <>
struct Word<16> {
    using type = uint4;
};
template <int N, typename T>
__device__ __forceinline__ Vec<T, N> load(const T* p) {
    if constexpr (sizeof(T) < 4 && N > 1) {
        auto word = *reinterpret_cast<const typename Word<sizeof(T) * N>::type*>(p);
        Vec<T, N> value;
        memcpy(&value, &word, sizeof(value));
        return value;
    } else {
        return *reinterpret_cast<const Vec<T, N>*>(p);
    }
}
template <int N, typename T>
__device__ __forceinline__ void store(T* p, const Vec<T, N>& value) {
    if constexpr (sizeof(T) < 4 && N > 1) {
        typename Word<sizeof(T) * N>::type word;
        memcpy(&word, &value, sizeof(value));
        *reinterpret_cast<decltype(word)*>(p) = word;
    } else {
        *reinterpret_cast<Vec<T, N>*>(p) = value;
    }
}

// The same numbers as To, each rounded once.
template <typename To, typename From, int N>
__device__ __forceinline__ Vec<To, N> cast(const Vec<From, N>& from) {
    Vec<To, N> to;
#pragma unroll
    for (int i = 0; i < N; i++) to.at[i] = To(from.at[i]);
    return to;
}

template <typename I>
__host__ __device__ constexpr I ceil_div(I a, I b) {
    return (a + b - 1) / b;
}

// Index of this thread in a one-dimensional grid, and the number of threads in it.
__device__ __forceinline__ i64 global_thread() {
    return (i64)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ i64 grid_threads() { return (i64)gridDim.x * blockDim.x; }

// Philox4x32-10 (Salmon et al., SC 2011), the same words as minicnn/base/philox.py.
__device__ __forceinline__ uint4 philox4x32(uint4 counter, uint2 key) {
    for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        u32 high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// Words 4·block to 4·block + 3 of (seed, stream, step), as minicnn.base.philox.words counts them.
__device__ __forceinline__ uint4 philox_words(u64 seed, u32 stream, u64 step, u32 block) {
    return philox4x32(make_uint4(block, stream, (u32)step, (u32)(step >> 32)),
                      make_uint2((u32)seed, (u32)(seed >> 32)));
}
