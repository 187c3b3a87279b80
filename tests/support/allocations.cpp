// Loaded before glibc: counts the allocations of a page or more.
#include <atomic>
#include <cerrno>
#include <cstddef>

constexpr size_t PAGE = 4096;
static std::atomic<long> count;
static void note(size_t bytes) { count += bytes >= PAGE; }

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

long allocations() { return count; }

void* malloc(size_t n) { return note(n), __libc_malloc(n); }
void* calloc(size_t m, size_t n) { return note(m * n), __libc_calloc(m, n); }
void* realloc(void* old, size_t n) { return note(n), __libc_realloc(old, n); }
void* memalign(size_t at, size_t n) { return note(n), __libc_memalign(at, n); }
void* aligned_alloc(size_t at, size_t n) { return memalign(at, n); }
int posix_memalign(void** to, size_t at, size_t n) { return (*to = memalign(at, n)) ? 0 : ENOMEM; }
}
