// Where threads wait for each other between the loops of a recorded step.
#include <thread>

#include "native.h"

// Counts one more in `arrived`, and returns when there are `stop`.
EXPORT void meet(i64 start, i64 stop, i64* arrived) {
    __atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(arrived, __ATOMIC_ACQUIRE) < stop)
        std::this_thread::yield();  // returns at once where no one else wants the processor
}
INSTANTIATE(meet);
