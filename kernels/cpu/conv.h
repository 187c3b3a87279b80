// A convolution's problem, and images as its compiled forms read them; see conv.cpp.
#pragma once

#include "tile.h"

// One image's problem, as native_form.py fills it in.
struct Shape {
    i64 h, w, c, k, r, s, stride[2], pad[2], groups, p, q;
};
inline i64 depth_of(const Shape& f) { return f.c / f.groups; }
inline i64 features_of(const Shape& f) { return f.k / f.groups; }
// Numbers of a row of a group's padded image, and of all its rows.
inline i64 row_of(const Shape& f) { return (f.w + 2 * f.pad[1]) * depth_of(f); }
inline i64 group_of(const Shape& f) { return (f.h + 2 * f.pad[0]) * row_of(f); }
// An image is copied into zeros, group by group; or it is read where it lies.
inline bool is_copied(const Shape& f) { return f.pad[0] || f.pad[1] || f.groups > 1; }

// Vectors of features in a tile at most. 4 vectors × 3 numbers fill 16 registers as 3 × 4 do; they are
// taken where features are no multiple of 3 vectors.
constexpr int ACROSS = REGISTERS == 16 ? 4 : MOST;
// Neighbouring taps that a vector of floats holds: two, of half as many features, where that leaves
// less of the vectors empty, or where the features fill but one, and loads of numbers are the bound.
template <typename T>
i64 pair_of(const Shape& f) {
    i64 halves = vectors_of<T>(2 * features_of(f));
    return sizeof(T) == 4 && f.s * depth_of(f) % 2 == 0 && (halves == 2 || halves % 2) ? 2 : 1;
}
// A group's features, each as often as there are taps in a vector.
template <typename T>
Blocks<T> blocks_of(const Shape& f) {
    i64 size = features_of(f) * pair_of<T>(f);
    return Blocks<T>(size, size % (MOST * W<T>) ? ACROSS : MOST);
}
// Calls f with constants of the block's lanes, and of the taps of a vector.
template <typename T, typename F>
void by_features(i64 wide, i64 taps, F f) {
    by_width<T, ACROSS>(wide, [&](auto lanes) {
        if constexpr (sizeof(T) == 4)
            if (taps == 2) return f(lanes, std::integral_constant<int, 2>());
        f(lanes, std::integral_constant<int, 1>());
    });
}
// The number, or the pair, that a row of a tile is multiplied with.
template <typename T, int TAPS>
auto number_at(const T* x) { return load<std::conditional_t<TAPS == 2, Pair, T>>(x); }

enum { PADDED, PLACES, DY, PARTIAL };  // uses of kept

struct Runs {
    i64 count, length, row;
    explicit Runs(const Shape& f) : count(f.r), length(f.s * depth_of(f)), row(row_of(f)) {}
    i64 offset(i64 i) const { return i * row; }
    i64 taps() const { return count * length; }
};

// Where the output pixels of `images` begin that lie so far `apart`.
inline const i64* places_of(const Shape& f, i64 images = 1, i64 apart = 0) {
    i64* places = kept<i64, PLACES>(images * f.p * f.q);
    for (i64 i = 0, *at = places; i < images; i++)
        for (i64 p = 0; p < f.p; p++)
            for (i64 q = 0; q < f.q; q++)
                *at++ = i * apart + p * f.stride[0] * row_of(f) + q * f.stride[1] * depth_of(f);
    return places;
}

// Numbers of a copied image. Behind it are some more: the weight gradient's last tile of a run is
// computed with low_of(1) pairs of taps at most where it has fewer.
inline i64 padded_size(const Shape& f) { return f.groups * group_of(f) + 2 * low_of(1); }

// The image as it is read: in `whole`, or itself if it may lie as it does.
template <typename T>
const T* padded(const T* image, const Shape& f, T* whole, bool copy = false) {
    if (!is_copied(f) && !copy) return image;
    i64 edge = f.pad[1] * depth_of(f), inside = f.w * depth_of(f), high = f.pad[0] * row_of(f);
    i64 piece = f.groups == 1 ? inside : depth_of(f);
    T* at = whole;
    for (i64 g = 0; g < f.groups; g++) {
        memset(at, 0, high * sizeof(T));
        at += high;
        for (i64 h = 0; h < f.h; h++, at += row_of(f)) {
            const T* from = image + h * f.w * f.c + g * depth_of(f);
            memset(at, 0, edge * sizeof(T));
            for (i64 i = 0; i < inside; i += piece)
                memcpy(at + edge + i, from + i * f.groups, piece * sizeof(T));
            memset(at + edge + inside, 0, edge * sizeof(T));
        }
        memset(at, 0, high * sizeof(T));
        at += high;
    }
    return whole;
}
