/* A libnvidia-ml.so.1 for machines without a GPU, loaded by the real pynvml. What it says is in the file that NVML_STUB names,
 * read anew at each call, so that a test changes it while the other side runs. A line each:
 *
 *     gpus 2                  how many there are; their UUIDs are GPU-00000000-0000-0000-0000-00000000000<number>
 *     from 1                  the number of the first (where others have fallen off the bus)
 *     fail FUNCTION 4         what this function returns, of each GPU
 *     fail FUNCTION@1 4       ... of the GPU at index 1
 *     lost 1                  every call on this index says NVML_ERROR_GPU_IS_LOST, until the library is opened anew without it
 *     hang FUNCTION           this function does not return while the line is there
 *     mig 0 3                 this index is divided into so many instances, the second and third share memory
 *     process 0 4711 1048576  a process of this index, and its bytes
 *     name TEXT               what they are called
 *     energy 0 1000           millijoules that this index has drawn
 *     power 0 1000            milliwatts that it draws
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DONE = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, UNINITIALIZED = 1, LOST = 15 };

struct device { unsigned index; int instance; };
struct memory { unsigned long long total, free, used; };
struct memory2 { unsigned version; unsigned long long total, reserved, free, used; };
struct utilization { unsigned gpu, memory; };
struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
struct value {
    unsigned field, scope; long long at, latency; unsigned type, returned;
    union { double d; unsigned u; unsigned long long ull; } value;
};

static struct device devices[128][17];
static int inits, opened, calls, lost_in[128];

int stub_inits(void) { return inits; }
int stub_calls(void) { return calls; }

/* The next line that begins with these words, and what follows them. */
static const char *next(const char *text, const char *words) {
    size_t length = strlen(words);
    while (text && *text) {
        if (!strncmp(text, words, length) && (text[length] == ' ' || text[length] == '\n' || !text[length])) return text + length;
        text = strchr(text, '\n');
        if (text) text++;
    }
    return NULL;
}

static void script(char *text, size_t size) {
    const char *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    text[0] = 0;
    if (file) {
        text[fread(text, 1, size - 1, file)] = 0;
        fclose(file);
    }
}

static long number(const char *words, long otherwise) {
    char text[8192];
    script(text, sizeof text);
    const char *found = next(text, words);
    return found ? atol(found) : otherwise;
}

/* What stands in the way of a call. */
static int before(const char *function, const struct device *device) {
    char words[160];
    calls++;
    for (;;) {
        snprintf(words, sizeof words, "hang %s", function);
        if (number(words, -1) < 0) break;
        usleep(5000);
    }
    if (!opened && strcmp(function, "nvmlInitWithFlags")) return UNINITIALIZED;
    if (device) {
        snprintf(words, sizeof words, "lost %u", device->index);
        if (number(words, -1) >= 0) lost_in[device->index] = inits;
        if (opened && lost_in[device->index] == inits) return LOST;
        snprintf(words, sizeof words, "fail %s@%u", function, device->index);
        long code = number(words, 0);
        if (code) return code;
    }
    snprintf(words, sizeof words, "fail %s", function);
    return number(words, 0);
}

#define ASK(device) do { int code = before(__func__, device); if (code) return code; } while (0)
#define WHOLE(device) do { ASK(device); if ((device)->instance >= 0) return NOT_SUPPORTED; } while (0)
#define NUMBER(name, ...) int name(struct device *d, unsigned *out) { WHOLE(d); *out = (__VA_ARGS__); return DONE; }
#define LIMITED(name, type, ...) int name(struct device *d, unsigned which, type *out) { WHOLE(d); *out = (__VA_ARGS__); return DONE; }

int nvmlInitWithFlags(unsigned flags) {
    int code = before(__func__, NULL);
    if (code) return code;
    inits++;
    opened = 1;
    return DONE;
}
int nvmlShutdown(void) { ASK(NULL); opened = 0; return DONE; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "an error"; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { ASK(NULL); snprintf(out, size, "590.48.01"); return DONE; }
int nvmlSystemGetNVMLVersion(char *out, unsigned size) { ASK(NULL); snprintf(out, size, "13.590.48.01"); return DONE; }
int nvmlSystemGetCudaDriverVersion(int *out) { ASK(NULL); *out = 13010; return DONE; }
int nvmlDeviceGetCount_v2(unsigned *out) { ASK(NULL); *out = number("gpus", 1); return DONE; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **out) {
    if (index >= 128) return INVALID;
    struct device *device = &devices[index][16];
    device->index = index;
    device->instance = -1;
    ASK(device);
    *out = device;
    return DONE;
}

static long of(const struct device *d, const char *what, long otherwise) {
    char words[32];
    snprintf(words, sizeof words, "%s %u", what, d->index);
    return number(words, otherwise);
}
static long instances(const struct device *d) { return of(d, "mig", 0); }

int nvmlDeviceGetMigMode(struct device *d, unsigned *now, unsigned *pending) { ASK(d); *now = *pending = instances(d) > 0; return DONE; }
int nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned *out) { ASK(d); *out = 7; return DONE; }
int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned index, struct device **out) {
    ASK(d);
    if (index >= (unsigned)instances(d)) return NOT_FOUND;
    devices[d->index][index] = (struct device){d->index, index};
    *out = &devices[d->index][index];
    return DONE;
}
int nvmlDeviceGetGpuInstanceId(struct device *d, unsigned *out) { ASK(d); *out = d->instance > 1 ? 2 : d->instance + 1; return DONE; }
int nvmlDeviceGetComputeInstanceId(struct device *d, unsigned *out) { ASK(d); *out = d->instance > 1; return DONE; }

int nvmlDeviceGetUUID(struct device *d, char *out, unsigned size) {
    ASK(d);
    if (d->instance < 0) snprintf(out, size, "GPU-00000000-0000-0000-0000-%012ld", d->index + number("from", 0));
    else snprintf(out, size, "MIG-00000000-0000-0000-%04d-%012u", d->instance, d->index);
    return DONE;
}
int nvmlDeviceGetName(struct device *d, char *out, unsigned size) {
    char text[8192];
    ASK(d);
    script(text, sizeof text);
    const char *name = next(text, "name");
    if (d->instance >= 0) snprintf(out, size, "NVIDIA H200 MIG 1g.18gb");
    else if (name) snprintf(out, size, "%.*s", (int)strcspn(name + 1, "\n"), name + 1);
    else snprintf(out, size, "NVIDIA H200");
    return DONE;
}
int nvmlDeviceGetPciInfo_v3(struct device *d, struct pci *out) {
    WHOLE(d);
    memset(out, 0, sizeof *out);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", 0x83 + d->index);
    return DONE;
}
int nvmlDeviceGetVbiosVersion(struct device *d, char *out, unsigned size) { WHOLE(d); snprintf(out, size, "96.00.A5.00.03"); return DONE; }
NUMBER(nvmlDeviceGetMinorNumber, d->index)

int nvmlDeviceGetMemoryInfo(struct device *d, struct memory *out) {
    ASK(d);
    *out = (struct memory){144ull << 30, 100ull << 30, 44ull << 30};
    return DONE;
}
int nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory2 *out) {
    ASK(d);
    unsigned long long total = d->instance < 0 ? 144ull << 30 : 18ull << 30, used = d->instance < 0 ? 43ull << 30 : 3ull << 29;
    *out = (struct memory2){out->version, total, 1ull << 30, total - used - (1ull << 30), used};
    return DONE;
}
int nvmlDeviceGetUtilizationRates(struct device *d, struct utilization *out) {
    WHOLE(d);
    if (instances(d)) return NOT_SUPPORTED;
    *out = (struct utilization){42 + d->index, 17};
    return DONE;
}
int nvmlDeviceGetEncoderUtilization(struct device *d, unsigned *out, unsigned *us) { WHOLE(d); *out = 5; *us = 1000; return DONE; }
int nvmlDeviceGetDecoderUtilization(struct device *d, unsigned *out, unsigned *us) { WHOLE(d); *out = 6; *us = 1000; return DONE; }
LIMITED(nvmlDeviceGetTemperature, unsigned, which ? 99 : 61)
NUMBER(nvmlDeviceGetFanSpeed, 30)
NUMBER(nvmlDeviceGetPowerUsage, of(d, "power", 295010))
NUMBER(nvmlDeviceGetPowerManagementLimit, 700000)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, 650000)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, 700000)
int nvmlDeviceGetTotalEnergyConsumption(struct device *d, unsigned long long *out) { WHOLE(d); *out = of(d, "energy", 123456789); return DONE; }
NUMBER(nvmlDeviceGetPerformanceState, 0)
LIMITED(nvmlDeviceGetClockInfo, unsigned, 1000 + 100 * which)
LIMITED(nvmlDeviceGetMaxClockInfo, unsigned, 2000 + 100 * which)
int nvmlDeviceGetCurrentClocksEventReasons(struct device *d, unsigned long long *out) { WHOLE(d); *out = 0x24; return DONE; }
int nvmlDeviceGetCurrentClocksThrottleReasons(struct device *d, unsigned long long *out) { WHOLE(d); *out = 0x24; return DONE; }
int nvmlDeviceGetEccMode(struct device *d, unsigned *now, unsigned *pending) { WHOLE(d); *now = *pending = 1; return DONE; }
int nvmlDeviceGetTotalEccErrors(struct device *d, unsigned error, unsigned since, unsigned long long *out) {
    WHOLE(d);
    *out = 10 * error + since + 1;
    return DONE;
}
int nvmlDeviceGetRemappedRows(struct device *d, unsigned *corrected, unsigned *not, unsigned *pending, unsigned *failure) {
    WHOLE(d);
    *corrected = 3, *not = 4, *pending = 1, *failure = 0;
    return DONE;
}
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, 4)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, 5)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, 8)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, 16)
LIMITED(nvmlDeviceGetPcieThroughput, unsigned, which ? 2500 : 1500)
NUMBER(nvmlDeviceGetPcieReplayCounter, 9)
int nvmlDeviceGetFieldValues(struct device *d, int count, struct value *values) {
    WHOLE(d);
    for (int i = 0; i < count; i++) {
        values[i].type = 1;
        values[i].returned = values[i].field == 82 ? DONE : NOT_SUPPORTED;
        values[i].value.ull = 58;
    }
    return DONE;
}

int nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *count, struct process *out) {
    char text[8192], words[32];
    unsigned room = *count, found = 0;
    ASK(d);
    script(text, sizeof text);
    snprintf(words, sizeof words, "process %u", d->index);
    for (const char *line = next(text, words); line; line = next(line, words), found++)
        if (out && found < room) {
            out[found] = (struct process){0, 0, ~0u, ~0u};
            sscanf(line, "%u %llu", &out[found].pid, &out[found].used);
        }
    *count = found;
    return found > (out ? room : 0) ? SMALL : DONE;
}
