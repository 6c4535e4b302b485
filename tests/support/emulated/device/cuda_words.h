// What batch_norm.cu is written in, for g++: CUDA's words by the emulator, and the device's conversions by bits.
#pragma once
#include "emulator.h"

#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define threadIdx (emulator::now->thread)
#define blockIdx (emulator::now->block)
#define blockDim (emulator::block)
#define gridDim (emulator::grid)
#define __syncthreads() emulator::barrier()
#define __threadfence() emulator::fence()
#define atomicAdd(at, v) emulator::add(at, v)

// What batch_norm.cu asks of a host in place of the device's instructions.
#define BN_HOST
#define BN_DEV inline
#define BN_SHARED(name) unsigned char* name = emulator::now->shared
inline float float_of(unsigned bits) { float v; __builtin_memcpy(&v, &bits, 4); return v; }
inline unsigned bits_of(float v) { unsigned bits; __builtin_memcpy(&bits, &v, 4); return bits; }
inline float half_to_float(unsigned short bits) { _Float16 v; __builtin_memcpy(&v, &bits, 2); return (float)v; }
inline float bfloat_to_float(unsigned short bits) { return float_of((unsigned)bits << 16); }
inline unsigned short float_to_half(float v) { _Float16 half = (_Float16)v; unsigned short bits; __builtin_memcpy(&bits, &half, 2); return bits; }
inline float toward_zero(double v) {
  float near = (float)v;
  return __builtin_fabs((double)near) > __builtin_fabs(v) ? float_of(bits_of(near) - 1) : near;  // infinity becomes the largest number
}
inline void fresh(const double* p, double& a, double& b) { a = p[0], b = p[1]; }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fabs(double v) { return __builtin_fabs(v); }
inline float fabsf(float v) { return __builtin_fabsf(v); }
inline double sqrt(double v) { return __builtin_sqrt(v); }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
