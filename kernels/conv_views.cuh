// The operands of a convolution's matrix products: where in x, dy or w each element lies.
//
// Views for gemm_operands.cuh. A view decodes by division where it starts, and from then on steps
// through the taps or the pixels like an odometer.
#pragma once

#include "common.cuh"

struct ConvShape {
    int n, h, w, c, k, r, s;
    int stride_h, stride_w, pad_h, pad_w, groups;
    int p, q;
    int depth, features;  // channels and features of a group
};

constexpr int OUTSIDE = -(1 << 30);  // a row from which no tap is inside an image

// How far an odometer steps, not divided into digits.
struct Distance {
    int by;
    __device__ __forceinline__ Distance(int by, int, int) : by(by) {}
};

// An index of three digits: index = (high · mids + mid) · lows + low.
struct Odometer {
    int high, mid, low;
    __device__ __forceinline__ Odometer(int index, int mids, int lows)
        : high(index / lows / mids), mid(index / lows % mids), low(index % lows) {}

    // Steps on; high goes beyond every limit, which tells that K has ended.
    __device__ __forceinline__ void advance(const Distance& step, int mids, int lows) {
        for (low += step.by; low >= lows; low -= lows) mid++;
        for (; mid >= mids; mid -= mids) high++;
    }
    // The same without branches, for three registers more.
    __device__ __forceinline__ void advance(const Odometer& step, int mids, int lows) {
        low += step.low;
        int carry = low >= lows;
        low -= carry ? lows : 0;
        mid += step.mid + carry;
        carry = mid >= mids;
        mid -= carry ? mids : 0;
        high += step.high + carry;
    }
};

// How the walk for numbers of type T steps. Without branches it mingles with the tensor cores'
// instructions; the tiles of float and double need every register for their sums.
template <typename T>
struct StepOf {
    using type = Odometer;
};
template <>
struct StepOf<float> {
    using type = Distance;
};
template <>
struct StepOf<double> {
    using type = Distance;
};
template <typename T>
using Step = typename StepOf<T>::type;

// One direction of patches: tap t of the patch of pixel i lies at first + i·stride + t·sign.
struct Axis {
    int pixels, taps, first, stride, sign;
    __device__ __forceinline__ int at(int pixel, int tap) const {
        return first + pixel * stride + tap * sign;
    }
};

// The patches of images of height × width, with `depth` of all the channels each.
struct Patches {
    int height, width, channels, depth;
    Axis vertical, horizontal;
    // Of channel 0 of a place; `line` counts through all the images.
    __device__ __forceinline__ i64 offset(i64 line, int column) const {
        return (line * width + column) * channels;
    }
};

// The patches of x that the pixels of y see.
__device__ __forceinline__ Patches patches_of_x(const ConvShape& shape) {
    return {shape.h, shape.w, shape.c, shape.depth,
            {shape.p, shape.r, -shape.pad_h, shape.stride_h, 1},
            {shape.q, shape.s, -shape.pad_w, shape.stride_w, 1}};
}

// The first pixel h ≥ 0 with (h + pad) % stride == phase; the others follow `stride` apart.
__device__ __forceinline__ int first_of_phase(int phase, int pad, int stride) {
    return (phase + stride - pad % stride) % stride;
}

// Which dy the pixels of one phase see. Pixel h = first + i·stride meets the taps
// r = phase + t·stride, and there the output (h + pad − r) / stride.
__device__ __forceinline__ Axis axis_of_dy(int pixels, int taps, int pad, int stride,
                                           int phase) {
    int first = first_of_phase(phase, pad, stride);
    return {max(ceil_div(pixels - first, stride), 0), max(ceil_div(taps - phase, stride), 0),
            (first + pad - phase) / stride, 1, -1};
}
__device__ __forceinline__ Patches patches_of_dy(const ConvShape& s, int phase_h, int phase_w) {
    return {s.p, s.q, s.k, s.features,
            axis_of_dy(s.h, s.r, s.pad_h, s.stride_h, phase_h),
            axis_of_dy(s.w, s.s, s.pad_w, s.stride_w, phase_w)};
}

// Lines: pixels, `end` of them. K: the taps and channels of their patches.
template <typename T, int LINES>
struct PatchLines {
    const T* start;  // the first line's row of taps behind the last, maybe outside the images
    Patches patches;
    Odometer tap;  // high counts up to 0: one register less than up to `taps`
    Step<T> step;
    int y[LINES], x[LINES], from[LINES];  // where that row lies: in its image, and from start

    __device__ __forceinline__ PatchLines(int line, int gap, int k, int by, const T* images,
                                          const Patches& patches, int end, int first_channel)
        : patches(patches),
          tap(k, patches.horizontal.taps, patches.depth),
          step(by, patches.horizontal.taps, patches.depth) {
        tap.high -= patches.vertical.taps;
#pragma unroll
        for (int i = 0; i < LINES; i++) {
            int pixel = line + i * gap;
            Odometer at(pixel, patches.vertical.pixels, patches.horizontal.pixels);
            y[i] = patches.vertical.at(at.mid, patches.vertical.taps);
            x[i] = patches.horizontal.at(at.low, 0);
            i64 offset = patches.offset((i64)at.high * patches.height + y[i], x[i]) + first_channel;
            if (i == 0) start = images + offset;
            from[i] = (int)(images + offset - start);
            if (pixel >= end) y[i] = OUTSIDE;
        }
    }
    __device__ __forceinline__ const T* at(int i) const {
        int down = tap.high * patches.vertical.sign, right = tap.mid * patches.horizontal.sign;
        bool inside = ((unsigned)(y[i] + down) < (unsigned)patches.height) &
                      ((unsigned)(x[i] + right) < (unsigned)patches.width) &
                      (tap.high < 0);  // & and not &&: no branches
        // Beyond the end of K it may be any number.
        int offset = (int)(((u32)down * patches.width + right) * patches.channels + tap.low);
        return inside ? start + (from[i] + offset) : nullptr;
    }
    __device__ __forceinline__ void advance() {
        tap.advance(step, patches.horizontal.taps, patches.depth);
    }
};

// Lines: the taps and channels of patches. K: pixels, up to `end`.
template <typename T>
struct PatchColumns {
    const T* image;
    Patches patches;
    Odometer tap, pixel;
    Step<T> step;
    int k, by, end;

    __device__ __forceinline__ PatchColumns(int line, int k, int by, const T* image,
                                            const Patches& patches, int end, int first_channel)
        : image(image),
          patches(patches),
          tap(line, patches.horizontal.taps, patches.depth),
          pixel(k, patches.vertical.pixels, patches.horizontal.pixels),
          step(by, patches.vertical.pixels, patches.horizontal.pixels),
          k(k),
          by(by),
          end(end) {
        tap.low += first_channel;
    }
    __device__ __forceinline__ const T* at() const {
        int row = patches.vertical.at(pixel.mid, tap.high);
        int column = patches.horizontal.at(pixel.low, tap.mid);
        bool inside = ((unsigned)row < (unsigned)patches.height) &
                      ((unsigned)column < (unsigned)patches.width) & (k < end) &
                      (tap.high < patches.vertical.taps);
        // Which pixel of all the images fits 32 bits, which number of them may not.
        u32 place = ((u32)pixel.high * patches.height + row) * patches.width + column;
        return inside ? image + ((i64)place * patches.channels + tap.low) : nullptr;
    }
    __device__ __forceinline__ void advance() {
        k += by;
        pixel.advance(step, patches.vertical.pixels, patches.horizontal.pixels);
    }
};

// Lines: channels of w. K: the taps of one phase and the features, from the tap at w[start].
template <typename T>
struct FilterTaps {
    const T* w;
    int start;
    ConvShape shape;
    Patches patches;  // of dy: `depth` features
    Odometer tap;
    Step<T> step;

    __device__ __forceinline__ FilterTaps(int line, int k, int by, const T* w,
                                          const ConvShape& shape, const Patches& patches,
                                          int start)
        : w(w),
          start(start + line + patches.vertical.taps * shape.stride_h * shape.s * shape.depth),
          shape(shape),
          patches(patches),
          tap(k, patches.horizontal.taps, patches.depth),
          step(by, patches.horizontal.taps, patches.depth) {
        tap.high = line < shape.depth ? tap.high - patches.vertical.taps : 0;  // up to 0 too
    }
    __device__ __forceinline__ const T* at() const {
        int r = tap.high * shape.stride_h, s = tap.mid * shape.stride_w;
        int offset = ((tap.low * shape.r + r) * shape.s + s) * shape.depth;
        return tap.high < 0 ? w + (start + offset) : nullptr;
    }
    __device__ __forceinline__ void advance() {
        tap.advance(step, patches.horizontal.taps, patches.depth);
    }
};

// Lines: rows of a matrix, `end` of them. K: its `width` columns.
template <typename T, int LINES>
struct MatrixLines {
    const T* matrix;
    int start, gap, by, width;
    int lines_left, k_left;  // from `start` to the end

    __device__ __forceinline__ MatrixLines(int line, int gap, int k, int by, const T* matrix,
                                           int start, int end, int width)
        : matrix(matrix),
          start(start + line * width + k),
          gap(gap),
          by(by),
          width(width),
          lines_left(end - line),
          k_left(line < end ? width - k : 0) {}
    __device__ __forceinline__ const T* at(int i) const {
        bool inside = (k_left > 0) & (i * gap < lines_left);
        return inside ? matrix + (start + i * gap * width) : nullptr;
    }
    __device__ __forceinline__ void advance() {
        start += by;
        k_left -= by;
    }
};

// Lines: columns of a matrix, `width` of them from `first` on. K: its rows, `pitch` apart, up to
// `end`.
template <typename T>
struct MatrixColumns {
    const T* matrix;
    int column, k, by, pitch, end;

    __device__ __forceinline__ MatrixColumns(int line, int k, int by, const T* matrix, int first,
                                             int width, int pitch, int end)
        : matrix(matrix),
          column(first + line),
          k(k),
          by(by),
          pitch(pitch),
          end(line < width ? end : 0) {}
    __device__ __forceinline__ const T* at() const {
        return k < end ? matrix + ((i64)k * pitch + column) : nullptr;
    }
    __device__ __forceinline__ void advance() { k += by; }
};
