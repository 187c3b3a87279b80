// What the cpu device's files share: types, and the words that minicnn/compile/native.py reads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

// A function that Python calls; its instances are listed by
//     INSTANTIATE(f<float>, f<double>);
// which means nothing to the compiler.
#define EXPORT static __attribute__((noinline))
#define INSTANTIATE(...) static_assert(true, "")

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;
struct bf16 {
    u16 bits;
};

constexpr size_t LINE = 64;  // bytes of a cache line, and of the widest vector

// This thread's array for such a use, of unspecified content; it begins a cache line. It is kept
// from call to call, so that a training step allocates nothing; under AddressSanitizer it ends
// where it was asked to.
template <typename T, int USE>
static T* kept(i64 count) {
#ifdef __SANITIZE_ADDRESS__
    constexpr bool EXACTLY = true;
#else
    constexpr bool EXACTLY = false;
#endif
    struct Free {
        void operator()(T* array) const { operator delete[](array, std::align_val_t(LINE)); }
    };
    thread_local std::unique_ptr<T[], Free> held;
    thread_local i64 size = 0;
    if (EXACTLY ? size != count : size < count) {
        held.reset((T*)operator new[](count * sizeof(T), std::align_val_t(LINE)));
        size = count;
    }
    return held.get();
}

// N numbers that are treated as one: g++ and clang++ take operators, == and ?: by the lane.
template <typename T, int N>
struct Lanes {
    typedef T type __attribute__((vector_size(N * sizeof(T))));
};

template <typename V, typename T>
static inline V load(const T* from) {
    V value;
    memcpy(&value, from, sizeof(value));
    return value;
}

template <typename V, typename T>
static inline void store(T* to, V value) {
    memcpy(to, &value, sizeof(value));
}

// How an exported function is called: the arguments after start and stop lie in slots of 8 bytes.
template <auto F>
struct Entry;
template <typename... A, void (*F)(i64, i64, A...)>
struct Entry<F> {
    template <size_t... I>
    static void spread(i64 start, i64 stop, const u64* slots, std::index_sequence<I...>) {
        F(start, stop, load<A>(slots + I)...);
    }
    static void call(i64 start, i64 stop, const u64* slots) {
        spread(start, stop, slots, std::index_sequence_for<A...>());
    }
};

// Bytes as the lanes of a vector of integers. (GCC 12's __builtin_convertvector goes one by one.)
template <typename V>
static inline V widened(const u8* from) {
    V value;
    for (size_t i = 0; i < sizeof(value) / sizeof(value[0]); i++) value[i] = from[i];
    return value;
}

// Bytes whose lanes this processor compares at once: of wider vectors GCC makes single numbers, and
// AVX-512's own are no faster where memory is the bound.
#ifdef __AVX2__
constexpr int COMPARED = 32;
#else
constexpr int COMPARED = 16;
#endif

// Calls f(lanes, i) for whole vectors of numbers from the i-th on, and one by one for the rest;
// `lanes` is a constant of their number.
template <typename T, typename F>
static inline void by_lanes(int count, F f) {
    constexpr int N = COMPARED / sizeof(T);
    int i = 0;
    for (; i + N <= count; i += N) f(std::integral_constant<int, N>(), i);
    for (; i < count; i++) f(std::integral_constant<int, 1>(), i);
}
