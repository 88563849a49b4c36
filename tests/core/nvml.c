/* A stand-in for the driver's libnvidia-ml.so.1 on machines without one: an A6000 and an H200, which is split if
   FAKE_MIG is set. FAKE_CUDA: what the driver knows. FAKE_INIT: what starting it returns. */
#include <stdlib.h>
#include <string.h>
typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { const char *name, *uuid; u64 total, reserved; int major, minor; } Card;
static Card cards[] = {
    {"NVIDIA RTX A6000", "GPU-aaaa-1", 48ull << 30, 1ull << 30, 8, 6},
    {"NVIDIA H200", "GPU-bbbb-2", 140ull << 30, 1ull << 30, 9, 0},
    {"NVIDIA H200 MIG 1g.18gb", "MIG-cccc-3", 16ull << 30, 0, 9, 0},
    {"NVIDIA H200 MIG 2g.35gb", "MIG-dddd-4", 32ull << 30, 0, 9, 0},
};
static int number(const char *name, int otherwise) { char *v = getenv(name); return v ? atoi(v) : otherwise; }
int nvmlInitWithFlags(u32 flags) { return number("FAKE_INIT", 0); }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = number("FAKE_CUDA", 13000); return 0; }
int nvmlSystemGetDriverVersion(char *to, u32 n) { strncpy(to, "580.65", n); return 0; }
int nvmlDeviceGetCount_v2(u32 *n) { *n = number("FAKE_COUNT", 2); return 0; }
int nvmlDeviceGetHandleByIndex_v2(u32 i, Card **h) { *h = &cards[i]; return 0; }
int nvmlDeviceGetCudaComputeCapability(Card *c, int *a, int *b) { *a = c->major; *b = c->minor; return 0; }
int nvmlDeviceGetName(Card *c, char *to, u32 n) { strncpy(to, c->name, n); return 0; }
int nvmlDeviceGetUUID(Card *c, char *to, u32 n) { strncpy(to, c->uuid, n); return 0; }
int nvmlDeviceGetMemoryInfo_v2(Card *c, struct { u32 version; u64 total, reserved, free, used; } *m) {
    m->total = c->total; m->reserved = c->reserved; return 0;
}
int nvmlDeviceGetMigMode(Card *c, u32 *now, u32 *later) {
    if (c != &cards[1]) return 3; /* not supported */
    *now = *later = number("FAKE_MIG", 0) != 0; return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(Card *c, u32 *n) { *n = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(Card *c, u32 i, Card **h) {
    if (i >= (u32)number("FAKE_MIG", 0) || i > 1) return 6; /* not found */
    *h = &cards[2 + i]; return 0;
}
