// The mode of this thread's floating-point arithmetic: while an object lives, that of IEEE 754, to the nearest and with
// denormal numbers, whatever other libraries have set (a library linked with -Ofast switches denormals off); then what it was.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace mnist_minimal {

class DefaultArithmetic {
 public:
  DefaultArithmetic() : before_(mode()) { set_mode(kDefault); }
  ~DefaultArithmetic() { set_mode(before_); }
  DefaultArithmetic(const DefaultArithmetic&) = delete;
  DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

 private:
#if defined(__x86_64__)
  // All exceptions masked.
  static constexpr uint64_t kDefault = 0x1f80;
  static uint64_t mode() { return _mm_getcsr(); }
  static void set_mode(uint64_t mode) { _mm_setcsr(unsigned(mode)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kDefault = 0;
  static uint64_t mode() {
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set_mode(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  static constexpr uint64_t kDefault = 0;
  static uint64_t mode() { return 0; }
  static void set_mode(uint64_t) {}
#endif

  const uint64_t before_;
};

}  // namespace mnist_minimal
