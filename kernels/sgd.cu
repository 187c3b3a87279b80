// SGD with momentum and weight decay, one update of all parameters.
//
// Formula   v ← momentum·v + rate·(Σ_slices g + shrink·w),  w ← w − v,  with rate = lr·rates[s]
//           and shrink = decay·decays[s] of the parameter s that a number belongs to; then, if
//           asked for, copy ← w in bfloat16. (Caffe's form: the learning rate is inside v.)
// Layout    w, v, copy: flat, `size` numbers; parameter s lies from starts[s] to starts[s + 1]
//           with padding at its end. g: the gradient of parameter s is the sum of slices[s]
//           partial gradients, each as long as the parameter with its padding, one behind the
//           other from places[s] on. lr is one number on the device, so that a captured launch
//           may be repeated with another one.
// Mapping   Threads stride over vectors of 16 bytes; each moves on through the parameters as
//           it goes. With one slice, three reads and two writes a number (and half a write for
//           the copy): memory alone sets the speed. Slices are added in their order: the same
//           bits as adding them first, and an array written and read less.
// Assumes   starts and places are multiples of 16 bytes, as are the arrays' addresses; padding
//           is updated with the rest: zeros stay zeros.
// Budget    64 registers: four blocks a multiprocessor have enough loads under way.

#include "common.cuh"

constexpr int THREADS = 256;

template <typename T>
__global__ void __launch_bounds__(THREADS, 4)
    sgd_update(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ v,
               bf16* __restrict__ copy, i64 size, const i64* __restrict__ starts,
               const i64* __restrict__ places, const int* __restrict__ slices,
               const double* __restrict__ rates, const double* __restrict__ decays,
               const double* __restrict__ lr, T momentum, double decay) {
    constexpr int W = 16 / sizeof(T);
    int s = -1, count = 0;
    i64 start = 0, end = 0;
    const T* first = g;
    T rate = 0, shrink = 0;
    for (i64 i = W * global_thread(); i < size; i += W * grid_threads()) {
        while (i >= end) {
            s++;
            start = starts[s];
            end = starts[s + 1];
            first = g + places[s];
            count = slices[s];
            rate = T(*lr * rates[s]);
            shrink = T(decay * decays[s]);
        }
        const T* part = first + (i - start);
        Vec<T, W> weight = load<W>(w + i), speed = load<W>(v + i), slope = load<W>(part);
#pragma unroll 4
        for (int slice = 1; slice < count; slice++) {
            Vec<T, W> more = load<W>(part + slice * (end - start));
#pragma unroll
            for (int e = 0; e < W; e++) slope.at[e] += more.at[e];
        }
#pragma unroll
        for (int e = 0; e < W; e++) {
            speed.at[e] =
                momentum * speed.at[e] + rate * (slope.at[e] + shrink * weight.at[e]);
            weight.at[e] -= speed.at[e];
        }
        store(v + i, speed);
        store(w + i, weight);
        if (copy) store(copy + i, cast<bf16>(weight));
    }
}

INSTANTIATE(sgd_update<float>, sgd_update<double>);
