// Sums in registers: what the matrix products of the cpu device share.
//
// Tile      Sums of M rows × N vectors stay in registers while products are added: N vectors,
//           read as they lie, times one number for each row, broadcast. With 32 registers of 16
//           floats 9 × 3 vectors are sums, 3 hold the vectors: 27 multiply-adds for 12 loads. With 16
//           registers 4 × 3, 6 × 2, or 3 × 4, where the numbers are held and the vectors pass.
// Rounding  Multiply-adds are fused where the processor can, as STDC FP_CONTRACT allows.
#pragma once

#include "native.h"

#pragma STDC FP_CONTRACT ON
#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int BYTES = 16, REGISTERS = 32;
#else
constexpr int BYTES = 16, REGISTERS = 16;
#endif
constexpr int MOST = 3;            // vectors of a tile; conv.h has tiles of 4, too
constexpr int MR = REGISTERS / 4;  // rows of a tile of so many
// Rows of a tile of so many vectors at most, and at least. With 32 registers all numbers above 20 are
// tiles of 9, 8 and 7.
constexpr i64 high_of(i64 vectors) { return std::min<i64>(9, (REGISTERS - 4) / vectors); }
constexpr i64 low_of(i64 vectors) { return std::min<i64>(7, high_of(vectors + 1)); }

template <typename T>
constexpr int W = BYTES / sizeof(T);
// Numbers of the narrowest vector: an EPYC computes two halves of AVX-512's in the time of a whole
// one.
template <typename T>
constexpr int PART = BYTES == 64 ? W<T> / 2 : W<T>;
// Vectors that so many numbers take; the last may be partly empty.
template <typename T>
constexpr i64 vectors_of(i64 lanes) { return (lanes + W<T> - 1) / W<T>; }
template <typename T, int LANES = W<T>>
using Vec = typename Lanes<T, LANES>::type;

// Things one after another, at least one, cut into pieces of up to `most`, as even as can be.
struct Cut {
    i64 count, least, more;  // `more` pieces are larger by one than `least`
    Cut(i64 size, i64 most) : count((size + most - 1) / most), least(size / count),
                              more(size % count) {}
    i64 first(i64 piece) const { return piece * least + std::min(piece, more); }
    i64 size(i64 piece) const { return least + (piece < more); }
};

// Numbers side by side, cut into blocks of up to `most` vectors, as even as can be; the last is as
// wide as it must be, in steps of STEP.
template <typename T, int STEP = PART<T>>
struct Blocks {
    i64 size, lanes;  // lanes: numbers computed, of which `size` count
    Cut vectors;
    i64 count = vectors.count;
    explicit Blocks(i64 size, i64 most = MOST) : size(size), lanes((size + STEP - 1) / STEP * STEP),
                                                 vectors(vectors_of<T>(size), most) {}
    i64 first(i64 block) const { return vectors.first(block) * W<T>; }
    i64 wide(i64 block) const { return std::min(first(block + 1), lanes) - first(block); }
    i64 width(i64 block) const { return std::min(first(block + 1), size) - first(block); }
};

// Calls f with a constant of the block's lanes.
template <typename T, int STEP = PART<T>, int MAX = MOST, int LANES = STEP, typename F>
void by_width(i64 wide, F f) {
    if constexpr (LANES < MAX * W<T>)
        if (wide > LANES) return by_width<T, STEP, MAX, LANES + STEP>(wide, f);
    f(std::integral_constant<int, LANES>());
}

// Calls f with a constant of the rows that a tile of so many vectors is computed with: no less than
// a tile of one vector more has, or 7.
template <i64 VECTORS, i64 M = high_of(VECTORS), typename F>
void by_height(i64 high, F f) {
    if constexpr (M > low_of(VECTORS))
        if (high < M) return by_height<VECTORS, M - 1>(high, f);
    f(std::integral_constant<int, M>());
}

// Has the compiler hold a vector in a register. Left to itself g++ reads it anew for every row
// when registers are just enough, and loads, not multiply-adds, are then the bound.
template <typename V>
inline void in_register(V& vector) {
#if defined(__x86_64__)
    asm("" : "+v"(vector));
#elif defined(__aarch64__)
    asm("" : "+w"(vector));
#endif
}

template <typename T, int M, int LANES>
struct Tile {
    static constexpr int N = LANES / W<T>, REST = LANES % W<T>;
    Vec<T> sums[M][N + !N] = {};
    Vec<T, PART<T>> last[REST ? M : 1] = {};  // of REST

    // Adds number(m) times the vectors to row m. The fewer of both stay in registers.
    template <typename Number>
    inline __attribute__((always_inline)) void add(const T* vectors, Number number) {
        if constexpr (N > M && !REST) {
            Vec<T> a[M];
            for (int m = 0; m < M; m++) {
                a[m] = number(m) - Vec<T>{};
                in_register(a[m]);
            }
            for (int v = 0; v < N; v++) {
                Vec<T> b = load<Vec<T>>(vectors + v * W<T>);
                in_register(b);
                for (int m = 0; m < M; m++) sums[m][v] += a[m] * b;
            }
            return;
        }
        Vec<T> b[N + !N];
        for (int v = 0; v < N; v++) {
            b[v] = load<Vec<T>>(vectors + v * W<T>);
            in_register(b[v]);
        }
        Vec<T, PART<T>> rest;
        if constexpr (REST) {
            rest = load<Vec<T, PART<T>>>(vectors + N * W<T>);
            in_register(rest);
        }
        for (int m = 0; m < M; m++) {
            T a = number(m);
            if constexpr (REST && N > 1) {  // g++ would broadcast it twice
                Vec<T> all = a - Vec<T>{};
                in_register(all);
                for (int v = 0; v < N; v++) sums[m][v] += all * b[v];
                last[m] += load<Vec<T, PART<T>>>((const T*)&all) * rest;
                continue;
            }
            for (int v = 0; v < N; v++) sums[m][v] += a * b[v];
            if constexpr (REST) last[m] += a * rest;
        }
    }
    void read(int m, const T* line) {
        for (int v = 0; v < N; v++) sums[m][v] = load<Vec<T>>(line + v * W<T>);
        if constexpr (REST) last[m] = load<Vec<T, PART<T>>>(line + N * W<T>);
    }
    void write(int m, T* line) const {
        for (int v = 0; v < N; v++) store(line + v * W<T>, sums[m][v]);
        if constexpr (REST) store(line + N * W<T>, last[m]);
    }
};
