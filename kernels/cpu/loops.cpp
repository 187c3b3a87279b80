// A recorded step's loops, which all threads run through together, without Python.
//
// Loop      Items are taken by whoever is free. For each item its calls are made one after
//           another: where it is an image, what is between its layers stays in the caches.
// Order     Threads wait for each other after a loop, unless the next needs nothing of it.
#include <thread>

#include "native.h"

// loops: (items, items taken at a time, end of its calls, whether threads wait after it). calls:
// (an Entry's function, its arguments, items of it to one of the loop's). state: threads that have
// arrived at the ends of loops; then of each loop the items taken.
EXPORT void run_loops(i64 start, i64 stop, const i64* loops, const u64* calls, i64* state, i64 count,
                      i64 threads) {
    i64 due = 0, first = 0;
    for (i64 i = 0; i < count; i++) {
        const i64 *loop = loops + 4 * i, items = loop[0], chunk = loop[1], end = loop[2];
        for (i64 at; (at = __atomic_fetch_add(state + 1 + i, chunk, __ATOMIC_RELAXED)) < items;)
            for (i64 c = first; c < end; c++) {
                const u64 *call = calls + 3 * c, *slots = (const u64*)call[1];
                i64 each = call[2], next = std::min(at + chunk, items);
                ((void (*)(i64, i64, const u64*))call[0])(at * each, next * each, slots);
            }
        first = end;
        if (!loop[3]) continue;
        due += threads;
        __atomic_add_fetch(state, 1, __ATOMIC_ACQ_REL);
        while (__atomic_load_n(state, __ATOMIC_ACQUIRE) < due)
            std::this_thread::yield();  // returns at once where no one else wants the processor
    }
}
