// A recorded step's loops, which all threads run through together, without Python.
#include <thread>

#include "native.h"

// Items: loops, all of which every thread runs. loops: (an Entry's function, its arguments, items,
// items taken at a time). state: how often threads have ended a loop; of each loop the items taken.
EXPORT void run_loops(i64 start, i64 stop, const u64* loops, i64* state, i64 threads) {
    for (i64 loop = start; loop < stop; loop++) {
        const u64* of = loops + 4 * loop;
        auto run = (void (*)(i64, i64, const u64*))of[0];
        i64 items = of[2], chunk = of[3], due = (loop + 1) * threads;
        // Nothing more is taken where the caller has left: see Loops.
        for (i64 at; __atomic_load_n(state, __ATOMIC_RELAXED) < due &&
                     (at = __atomic_fetch_add(state + 1 + loop, chunk, __ATOMIC_RELAXED)) < items;)
            run(at, std::min(at + chunk, items), (const u64*)of[1]);
        __atomic_add_fetch(state, 1, __ATOMIC_ACQ_REL);
        while (__atomic_load_n(state, __ATOMIC_ACQUIRE) < due)
            std::this_thread::yield();  // returns at once where no one else wants the processor
    }
}
