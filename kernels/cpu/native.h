// What the cpu device's files share: types, and the words that minicnn/native.py reads.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

// A function that Python calls; its instances are listed by
//     INSTANTIATE(f<float>, f<double>);
// which means nothing to the compiler.
#define EXPORT static
#define INSTANTIATE(...) static_assert(true, "")

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;
