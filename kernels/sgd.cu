// SGD with momentum and weight decay, one update of all parameters.
//
// Formula   v ← momentum·v + rate·(g + shrink·w),  w ← w − v,  with rate = lr·rates[s] and
//           shrink = decay·decays[s] of the parameter s that a number belongs to.
//           (Caffe's form: the learning rate is inside v.)
// Layout    w, g, v: flat, `size` numbers; parameter s lies from starts[s] to starts[s + 1]
//           with padding at its end. lr is one number on the device, so that a captured
//           launch may be repeated with another one.
// Mapping   Threads stride over vectors of 16 bytes; each moves on through the parameters as
//           it goes. Three reads and two writes a number: memory alone sets the speed.
// Assumes   starts are multiples of 16 bytes, as are the arrays' addresses; padding is updated
//           with the rest: zeros stay zeros.
// Budget    32 registers: eight blocks fill a multiprocessor.

#include "common.cuh"

constexpr int THREADS = 256;

template <typename T>
__global__ void __launch_bounds__(THREADS, 8)
    sgd_update(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ v, i64 size,
               const i64* __restrict__ starts, const double* __restrict__ rates,
               const double* __restrict__ decays, const double* __restrict__ lr, T momentum,
               double decay) {
    constexpr int W = 16 / sizeof(T);
    int s = -1;
    i64 end = 0;
    T rate = 0, shrink = 0;
    for (i64 i = W * global_thread(); i < size; i += W * grid_threads()) {
        while (i >= end) {
            s++;
            end = starts[s + 1];
            rate = T(*lr * rates[s]);
            shrink = T(decay * decays[s]);
        }
        Vec<T, W> weight = load<W>(w + i), speed = load<W>(v + i), slope = load<W>(g + i);
#pragma unroll
        for (int e = 0; e < W; e++) {
            speed.at[e] =
                momentum * speed.at[e] + rate * (slope.at[e] + shrink * weight.at[e]);
            weight.at[e] -= speed.at[e];
        }
        store(v + i, speed);
        store(w + i, weight);
    }
}

INSTANTIATE(sgd_update<float>, sgd_update<double>);
