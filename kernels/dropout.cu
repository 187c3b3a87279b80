// Dropout whose mask is a function of (seed, stream, step): nothing is stored.
//
// Formula   y_i = x_i · (word_i ≥ threshold ? factor : 0), threshold = ⌊rate·2³²⌋ and factor =
//           1 / (1 − rate); word_i is word i of philox_words(seed, stream, step, ·).
//           The backward pass is the same on dy.
// Layout    x, y: `count` numbers in C order; y may be x.
// Mapping   A thread takes the four numbers of one Philox block; float loads are 16 bytes wide.
// Assumes   count ≤ 2³⁴, as Philox has 2³² blocks; arrays begin at multiples of 16 bytes.
// Budget    32 registers: eight blocks fill a multiprocessor.

#include "common.cuh"

constexpr int THREADS = 256;

template <typename T>
__global__ void __launch_bounds__(THREADS, 8)
    dropout(const T* x, T* y, i64 count, u32 threshold, T factor, u64 seed, u32 stream,
            u64 step) {
    constexpr int W = 16 / sizeof(T);
    i64 block = global_thread();
    i64 first = 4 * block;
    if (first >= count) return;
    uint4 words = philox_words(seed, stream, step, (u32)block);
    u32 word[4] = {words.x, words.y, words.z, words.w};
    T mask[4];
#pragma unroll
    for (int e = 0; e < 4; e++) mask[e] = word[e] >= threshold ? factor : T(0);
    if (first + 4 <= count) {
#pragma unroll
        for (int at = 0; at < 4; at += W) {
            Vec<T, W> value = load<W>(x + first + at);
#pragma unroll
            for (int e = 0; e < W; e++) value.at[e] *= mask[at + e];
            store(y + first + at, value);
        }
    } else {
#pragma unroll
        for (int e = 0; e < 3; e++)
            if (first + e < count) y[first + e] = x[first + e] * mask[e];
    }
}

INSTANTIATE(dropout<float>, dropout<double>);
