// Dropout whose mask is a function of (seed, stream, step): nothing is stored.
//
// Formula   y_i = x_i · (word_i ≥ threshold ? factor : 0), threshold = ⌊rate·2³²⌋ and factor =
//           1 / (1 − rate); word_i is word i of philox_words(seed, stream, step, ·).
//           The backward pass is the same on dy.
// Layout    x, y: `count` numbers in C order; y may be x. step (1,): in memory, not an argument,
//           so that a recorded launch draws another mask when it is repeated.
// Mapping   A thread takes the four numbers of one Philox block, of two where numbers are so
//           small that eight make 16 bytes: loads and stores are that wide.
// Assumes   count ≤ 2³⁴, as Philox has 2³² blocks; arrays begin at multiples of 16 bytes.
// Budget    40 registers: six blocks fill a multiprocessor of 1,536 threads.

#include "common.cuh"

constexpr int THREADS = 256;

template <typename T>
__global__ void __launch_bounds__(THREADS, 6)
    dropout(const T* x, T* y, i64 count, u32 threshold, accumulator<T> factor, u64 seed,
            u32 stream, const i64* __restrict__ step_at) {
    using A = accumulator<T>;
    constexpr int W = 16 / sizeof(T), DRAWS = W > 4 ? W / 4 : 1, PART = 4 * DRAWS;
    i64 first = PART * global_thread();
    if (first >= count) return;
    A mask[PART];
    u64 step = *step_at;
#pragma unroll
    for (int draw = 0; draw < DRAWS; draw++) {
        uint4 words = philox_words(seed, stream, step, (u32)(first / 4) + draw);
        u32 word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int e = 0; e < 4; e++) mask[4 * draw + e] = word[e] >= threshold ? factor : A(0);
    }
    if (first + PART <= count) {
#pragma unroll
        for (int at = 0; at < PART; at += W) {
            Vec<A, W> value = cast<A>(load<W>(x + first + at));
#pragma unroll
            for (int e = 0; e < W; e++) value.at[e] *= mask[at + e];
            store(y + first + at, cast<T>(value));
        }
    } else {
#pragma unroll
        for (int e = 0; e < PART - 1; e++)
            if (first + e < count) y[first + e] = T(A(x[first + e]) * mask[e]);
    }
}

INSTANTIATE(dropout<float>, dropout<double>, dropout<bf16>);
