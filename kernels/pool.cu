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
//           numbers fit an int.
// Budget    80 registers, three blocks a multiprocessor: they let the compiler have several
//           places' loads under way at a time. Of vectors it needs 64, and has four.

#include "pool_window.cuh"

constexpr int THREADS = 256;

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
__global__ void __launch_bounds__(THREADS, W > 1 ? 4 : 3)
    pool_forward(const T* __restrict__ x, T* __restrict__ y, u8* __restrict__ argmax,
                 Pooling shape, int blocks) {
    Place at;
    if (!place_of<W>(shape.p, shape.q, shape.c, blocks, at)) return;
    x += at.image * shape.h * shape.w * shape.c + at.c;
    Largest<T, W> found = largest<W>(x, shape, at.row, at.column);
    i64 out = ((at.image * shape.p + at.row) * shape.q + at.column) * shape.c + at.c;
    store(y + out, found.value);
    store(argmax + out, found.place);
}

template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)
    pool_backward(const T* __restrict__ dy, const u8* __restrict__ argmax, T* __restrict__ dx,
                  Pooling shape, int blocks) {
    Place at;
    if (!place_of<W>(shape.h, shape.w, shape.c, blocks, at)) return;
    i64 image = at.image * shape.p * shape.q * shape.c + at.c;
    dy += image;
    argmax += image;
    auto offset = [&](int p, int q) { return (p * shape.q + q) * shape.c; };
    Vec<accumulator<T>, W> sum = gather<accumulator<T>, W>(
        shape, at.row, at.column, [&](int p, int q) { return load<W>(dy + offset(p, q)); },
        [&](int p, int q) { return load<W>(argmax + offset(p, q)); });
    i64 pixel = (at.image * shape.h + at.row) * shape.w + at.column;
    store(dx + pixel * shape.c + at.c, cast<T>(sum));
}

INSTANTIATE(pool_forward<float, 4>, pool_forward<float, 1>);
INSTANTIATE(pool_forward<double, 2>, pool_forward<double, 1>);
INSTANTIATE(pool_forward<bf16, 8>, pool_forward<bf16, 1>);
INSTANTIATE(pool_backward<float, 4>, pool_backward<float, 1>);
INSTANTIATE(pool_backward<double, 2>, pool_backward<double, 1>);
INSTANTIATE(pool_backward<bf16, 8>, pool_backward<bf16, 1>);
