// Max pooling over windows of any size, forward and backward.
//
// Formula   y[n,p,q,c] = max over r, s of x[n, p·stride+r−pad, q·stride+s−pad, c], of the places
//           inside the image; argmax is the first maximum's r·S + s, in one byte.
//           dx[n,h,w,c] = Σ dy[n,p,q,c] over the windows (p,q) whose argmax is at (h,w).
//           A window with a NaN gives NaN; its argmax is then that of the places before it.
// Layout    NHWC: x, dx (N,H,W,C); y, dy, argmax (N,P,Q,C).
// Mapping   A thread takes W neighbouring channels of one output place (forward) or one input
//           place (backward): the threads of a warp read and write memory in a row. Images are
//           cut into `blocks` blocks each, so that only blockIdx.x counts beyond one image.
//           Backward gathers: each input looks up the windows that cover it, from the last to
//           the first, so nothing is added by two threads and sums have one order.
// Assumes   R·S ≤ 256; C a multiple of W; arrays begin at multiples of 16 bytes; one image's
//           places times C / W fit an int.
// Budget    64 registers, four blocks a multiprocessor: they let the compiler have several
//           places' loads under way at a time.

#include "common.cuh"

constexpr int THREADS = 256;

// One pooling problem; Python's PoolShape without n.
struct Pooling {
    int h, w, c, p, q;
    int window[2], stride[2], pad[2];
};

// Where a thread works: channel `c` and the ones behind it, at (row, column) of `image`.
struct Place {
    i64 image;
    int row, column, c;
};

// This thread's place among rows × columns places of c channels; false if it has none.
template <int W>
__device__ __forceinline__ bool place_of(int rows, int columns, int c, int blocks, Place& place) {
    u32 vectors = c / W;
    u32 i = blockIdx.x % blocks * blockDim.x + threadIdx.x;
    place.image = blockIdx.x / blocks;
    place.c = W * (i % vectors);
    place.column = i / vectors % columns;
    place.row = i / vectors / columns;
    return place.row < rows;
}

template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)
    pool_forward(const T* __restrict__ x, T* __restrict__ y, u8* __restrict__ argmax,
                 Pooling shape, int blocks) {
    Place at;
    if (!place_of<W>(shape.p, shape.q, shape.c, blocks, at)) return;
    int top = at.row * shape.stride[0] - shape.pad[0];
    int left = at.column * shape.stride[1] - shape.pad[1];
    int last_r = min(shape.window[0], shape.h - top);
    int last_s = min(shape.window[1], shape.w - left);
    x += at.image * shape.h * shape.w * shape.c + at.c;
    Vec<T, W> best;
    Vec<u8, W> number;
    for (int e = 0; e < W; e++) {
        best.at[e] = -__int_as_float(0x7f800000);  // minus infinity
        number.at[e] = 0;
    }
    for (int r = max(0, -top); r < last_r; r++)
        for (int s = max(0, -left); s < last_s; s++) {
            i64 pixel = (i64)(top + r) * shape.w + left + s;
            Vec<T, W> value = load<W>(x + pixel * shape.c);
#pragma unroll
            for (int e = 0; e < W; e++) {
                bool better = value.at[e] > best.at[e];
                if (better) number.at[e] = r * shape.window[1] + s;
                // A NaN is not better, but it stays: nothing is better than it either.
                if (better || value.at[e] != value.at[e]) best.at[e] = value.at[e];
            }
        }
    i64 out = ((at.image * shape.p + at.row) * shape.q + at.column) * shape.c + at.c;
    store(y + out, best);
    store(argmax + out, number);
}

template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)
    pool_backward(const T* __restrict__ dy, const u8* __restrict__ argmax, T* __restrict__ dx,
                  Pooling shape, int blocks) {
    Place at;
    if (!place_of<W>(shape.h, shape.w, shape.c, blocks, at)) return;
    // Window p covers this row if 0 ≤ row + pad − p·stride < R.
    int row = at.row + shape.pad[0], column = at.column + shape.pad[1];
    int first_p = ceil_div(max(row - shape.window[0] + 1, 0), shape.stride[0]);
    int first_q = ceil_div(max(column - shape.window[1] + 1, 0), shape.stride[1]);
    int last_q = min(column / shape.stride[1], shape.q - 1);
    i64 image = at.image * shape.p * shape.q * shape.c + at.c;
    dy += image;
    argmax += image;
    Vec<T, W> sum;
    for (int e = 0; e < W; e++) sum.at[e] = 0;
    for (int p = min(row / shape.stride[0], shape.p - 1); p >= first_p; p--)
        for (int q = last_q; q >= first_q; q--) {
            int r = row - p * shape.stride[0], s = column - q * shape.stride[1];
            i64 from = ((i64)p * shape.q + q) * shape.c;
            Vec<u8, W> number = load<W>(argmax + from);
            Vec<T, W> part = load<W>(dy + from);
#pragma unroll
            for (int e = 0; e < W; e++)
                if (number.at[e] == r * shape.window[1] + s) sum.at[e] += part.at[e];
        }
    i64 pixel = (at.image * shape.h + at.row) * shape.w + at.column;
    store(dx + pixel * shape.c + at.c, sum);
}

INSTANTIATE(pool_forward<float, 4>, pool_forward<float, 1>);
INSTANTIATE(pool_forward<double, 2>, pool_forward<double, 1>);
INSTANTIATE(pool_backward<float, 4>, pool_backward<float, 1>);
INSTANTIATE(pool_backward<double, 2>, pool_backward<double, 1>);
