// From uint8 store rows to network input: crop, subtract the mean, scale, mirror.
//
// Formula   x[n,i,j] = (images[rows[n], top+i, left+j′] − mean[top+i, left+j′]) · scale, where j′
//           is w−1−j in a mirrored image, else j. (The mean is mirrored with the image.)
//           crop_mirror: y = x. crop_mirror_blocks: blocks of pixels become pixels,
//           y[n,i,j, (down·stride[1] + right)·3 + colour] =
//               x[n, i·stride[0] + down − pad[0], j·stride[1] + right − pad[1], colour],
//           zero beyond x and in the channels after the last of a block.
// Layout    images (M,H,W,3) uint8, mean (H,W,3) float, x (N,h,w,3); rows, top, left, mirror
//           (N,); blocks: y (N, blocks.h, blocks.w, blocks.c).
// Mapping   threadIdx.x walks along an output row, so that reads and writes lie in a row;
//           blockIdx.x is the image, (blockIdx.y, threadIdx.y) the output row. A plain row
//           starts at any byte: loads and stores are of single numbers. In blocks a thread
//           makes 16 bytes of channels: one division tells their first pixel, and the others
//           follow it like the digits of an odometer.
// Assumes   every row is one of the M, every crop lies inside its image; y has no more than
//           65535 · blockDim.y rows; blocks.c is a multiple of W.
// Budget    64 registers: four blocks a multiprocessor.

#include "common.cuh"

constexpr int THREADS = 256;

// Python's Blocks: their numbers, and how they lie on the crop.
struct Blocks {
    int h, w, c;
    int stride[2], pad[2];
};

template <typename T>
__global__ void __launch_bounds__(THREADS, 4)
    crop_mirror(const u8* __restrict__ images, const float* __restrict__ mean,
                T* __restrict__ y, const i64* __restrict__ rows, const i64* __restrict__ top,
                const i64* __restrict__ left, const bool* __restrict__ mirror, int in_height,
                int in_width, int height, int width, accumulator<T> scale) {
    using A = accumulator<T>;
    i64 n = blockIdx.x;
    int i = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= height) return;
    i64 corner = ((top[n] + i) * in_width + left[n]) * 3;
    images += rows[n] * in_height * in_width * 3 + corner;
    mean += corner;
    y += (n * height + i) * width * 3;
    bool mirrored = mirror[n];
    for (int e = threadIdx.x; e < 3 * width; e += blockDim.x) {
        // Pixel j of the row and its colour e − 3·j; its mirror image is pixel width−1−j.
        int from = mirrored ? e + 3 * (width - 1 - 2 * (e / 3)) : e;
        y[e] = T((A(images[from]) - A(mean[from])) * scale);
    }
}

template <typename T, int W>
__global__ void __launch_bounds__(THREADS, 4)
    crop_mirror_blocks(const u8* __restrict__ images, const float* __restrict__ mean,
                       T* __restrict__ y, const i64* __restrict__ rows,
                       const i64* __restrict__ top, const i64* __restrict__ left,
                       const bool* __restrict__ mirror,
                       int in_height, int in_width, int height, int width, Blocks blocks,
                       accumulator<T> scale) {
    using A = accumulator<T>;
    i64 n = blockIdx.x;
    int i = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= blocks.h) return;
    i64 corner = (top[n] * in_width + left[n]) * 3;
    images += rows[n] * in_height * in_width * 3 + corner;
    mean += corner;
    y += (n * blocks.h + i) * blocks.w * blocks.c;
    bool mirrored = mirror[n];
    int top_row = i * blocks.stride[0] - blocks.pad[0];
    int end_row = min(top_row + blocks.stride[0], height);
    int vectors = blocks.c / W;
    for (int v = threadIdx.x; v < blocks.w * vectors; v += blockDim.x) {
        int channel = v % vectors * W;
        int pixel = channel / 3, colour = channel % 3;
        int start = v / vectors * blocks.stride[1] - blocks.pad[1];  // of the block's rows
        int row = top_row + pixel / blocks.stride[1], column = start + pixel % blocks.stride[1];
        Vec<T, W> values;
#pragma unroll
        for (int e = 0; e < W; e++) {
            A value = 0;
            if (row >= 0 && row < end_row && (u32)column < (u32)width) {
                int seen = mirrored ? width - 1 - column : column;
                int from = (row * in_width + seen) * 3 + colour;
                value = (A(images[from]) - A(mean[from])) * scale;
            }
            values.at[e] = T(value);
            if (++colour == 3) {
                colour = 0;
                if (++column == start + blocks.stride[1]) column = start, row++;
            }
        }
        store(y + (i64)v * W, values);
    }
}

INSTANTIATE(crop_mirror<float>, crop_mirror<double>, crop_mirror<bf16>);
INSTANTIATE(crop_mirror_blocks<float, 4>, crop_mirror_blocks<double, 2>,
            crop_mirror_blocks<bf16, 8>);
