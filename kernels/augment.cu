// From uint8 store rows to network input: crop, subtract the mean, scale, mirror.
//
// Formula   y[n,i,j] = (images[n, top+i, left+j′] − mean[top+i, left+j′]) · scale, where j′ is
//           w−1−j in a mirrored image, else j. (The mean is mirrored with the image.)
// Layout    images (N,H,W,3) uint8, mean (H,W,3) float, y (N,h,w,3); top, left, mirror (N,).
// Mapping   threadIdx.x walks along the w·3 numbers of an output row, so that reads and writes
//           lie in a row; blockIdx.x is the image, (blockIdx.y, threadIdx.y) the output row.
//           An output row starts at any byte: loads and stores are of single numbers.
// Assumes   every crop lies inside its image; y has no more than 65535 · blockDim.y rows.
// Budget    32 registers: eight blocks fill a multiprocessor.

#include "common.cuh"

constexpr int THREADS = 256;

template <typename T>
__global__ void __launch_bounds__(THREADS, 8)
    crop_mirror(const u8* __restrict__ images, const float* __restrict__ mean,
                T* __restrict__ y, const i64* __restrict__ top, const i64* __restrict__ left,
                const bool* __restrict__ mirror, int in_height, int in_width, int height,
                int width, T scale) {
    i64 n = blockIdx.x;
    int i = blockIdx.y * blockDim.y + threadIdx.y;
    if (i >= height) return;
    i64 corner = ((top[n] + i) * in_width + left[n]) * 3;
    images += n * in_height * in_width * 3 + corner;
    mean += corner;
    y += (n * height + i) * width * 3;
    bool mirrored = mirror[n];
    for (int e = threadIdx.x; e < 3 * width; e += blockDim.x) {
        // Pixel j of the row and its colour e − 3·j; its mirror image is pixel width−1−j.
        int from = mirrored ? e + 3 * (width - 1 - 2 * (e / 3)) : e;
        y[e] = (T(images[from]) - T(mean[from])) * scale;
    }
}

INSTANTIATE(crop_mirror<float>, crop_mirror<double>);
