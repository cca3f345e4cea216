/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "commands.h"

#include <string.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "check.h"
#include "dirty.h"
#include "load.h"
#include "mmio.h"
#include "wait.h"

#define LENGTH_DEFAULT 4096
#define LOAD_LIMIT_DEFAULT 4096

typedef const char *command(const struct words *words, struct reply *reply);

static const char *parse_device(const struct words *words, unsigned int at,
                                struct device **device)
{
    uint32_t index;

    if (words->count <= at || !parse_number(words->word[at], &index)) {
        return "the number of the device is missing";
    }
    if (index >= device_count) {
        return "no such device";
    }
    *device = &devices[index];
    return NULL;
}

static bool parse_kind(const struct words *words, const char *key,
                       enum memory_kind *kind)
{
    static const char *const names[MEMORY_KINDS] = {
        [MEMORY_FRESH] = "fresh",
        [MEMORY_HELD] = "held",
        [MEMORY_WARM] = "warm",
    };
    const char *value = words_value(words, key);

    *kind = MEMORY_FRESH;
    for (unsigned int i = 0; value && i < MEMORY_KINDS; i++) {
        if (strcmp(value, names[i]) == 0) {
            *kind = i;
            return true;
        }
    }
    return !value;
}

static bool parse_opcode(const struct words *words, enum opcode *opcode)
{
    const char *value = words_value(words, "op");

    if (!value || strcmp(value, "copy") == 0) {
        *opcode = OP_COPY;
    } else if (strcmp(value, "checksum") == 0) {
        *opcode = OP_CHECKSUM;
    } else if (strcmp(value, "fill") == 0) {
        *opcode = OP_FILL;
    } else {
        return false;
    }
    return true;
}

static const char *parse_dma(const struct words *words, struct dma_spec *spec)
{
    spec->length = LENGTH_DEFAULT;
    if (!words_number(words, "len", &spec->length) || spec->length == 0 ||
        spec->length > LENGTH_MAX) {
        return "len must be 1 to 1048576";
    }
    if (!parse_kind(words, "src", &spec->source) ||
        !parse_kind(words, "dst", &spec->destination)) {
        return "src and dst are fresh, held or warm";
    }
    if (!parse_opcode(words, &spec->opcode)) {
        return "op is copy, checksum or fill";
    }
    return NULL;
}

static const char *command_hello(const struct words *words,
                                 struct reply *reply)
{
    struct utsname name;

    (void)words;
    uname(&name);
    reply_bool(reply, "ok", true);
    reply_string(reply, "kernel", name.release);
    reply_number(reply, "pid", (uint64_t)getpid());
    reply_number(reply, "devices", device_count);
    reply_open(reply, "pasid", '[');
    for (unsigned int i = 0; i < device_count; i++) {
        reply_item(reply, devices[i].pasid);
    }
    reply_close(reply, ']');
    return NULL;
}

static void reply_window(struct reply *reply, const char *name,
                         const void *start)
{
    if (start) {
        reply_address(reply, name, (uintptr_t)start);
    }
}

static const char *command_dma(const struct words *words, struct reply *reply)
{
    struct device *device;
    struct dma_spec spec;
    uint32_t count, first = 0, seq, done;
    const char *error = parse_device(words, 1, &device);

    error = error ? error : parse_dma(words, &spec);
    if (error) {
        return error;
    }
    if (words->count < 3 || !parse_number(words->word[2], &count) || !count) {
        return "the number of DMAs is missing";
    }
    for (done = 0; done < count; done++) {
        error = submit(device, &spec, &seq);
        if (error) {
            break;
        }
        if (done == 0) {
            const struct request *request = &device->requests[seq];

            first = seq;
            reply_window(reply, "src", request->source.start);
            reply_window(reply, "dst", request->destination.start);
        }
    }
    if (done) {
        reply_number(reply, "first", first);
    }
    reply_number(reply, "count", done);
    if (!error) {
        reply_bool(reply, "ok", true);
    }
    return error;
}

static const char *command_load(const struct words *words, struct reply *reply)
{
    struct load_spec spec = { .limit = LOAD_LIMIT_DEFAULT };
    struct device *device;
    const char *error = parse_device(words, 1, &device);

    if (error) {
        return error;
    }
    if (words_has(words, "stop")) {
        load_stop(device->index);
        reply_bool(reply, "ok", true);
        return NULL;
    }
    if (!words_has(words, "start")) {
        return "load DEV start or load DEV stop";
    }
    error = parse_dma(words, &spec.dma);
    if (error) {
        return error;
    }
    if (!words_number(words, "rate", &spec.rate) ||
        !words_number(words, "burst", &spec.burst) ||
        !words_number(words, "limit", &spec.limit) ||
        !words_number(words, "total", &spec.total) ||
        spec.rate > 1000000 || spec.limit == 0 || spec.limit > SLOTS ||
        (spec.rate != 0) == (spec.burst != 0)) {
        return "one of rate=1..1000000 and burst=1.. is needed, "
               "limit is 1..65536";
    }
    error = load_start(device->index, &spec);
    if (!error) {
        reply_bool(reply, "ok", true);
    }
    return error;
}

static const char *command_half(const struct words *words, struct reply *reply)
{
    struct device *device;
    struct dma_spec spec;
    uint32_t seq;
    const char *error = parse_device(words, 1, &device);

    error = error ? error : parse_dma(words, &spec);
    error = error ? error : submit_half(device, &spec, &seq);
    if (!error) {
        reply_bool(reply, "ok", true);
        reply_number(reply, "seq", seq);
    }
    return error;
}

static const char *command_finish(const struct words *words,
                                  struct reply *reply)
{
    struct device *device;
    uint32_t seq;
    const char *error = parse_device(words, 1, &device);

    error = error ? error : submit_rest(device, &seq);
    if (!error) {
        reply_bool(reply, "ok", true);
        reply_number(reply, "seq", seq);
    }
    return error;
}

static const char *command_peek(const struct words *words, struct reply *reply)
{
    struct device *device;
    const char *error = parse_device(words, 1, &device);

    if (!error) {
        reply_bool(reply, "ok", true);
        reply_number(reply, "word", mmio_read64(device->portal));
    }
    return error;
}

static const char *command_hold(const struct words *words, struct reply *reply)
{
    bool on = words_has(words, "on");

    if (on == words_has(words, "off")) {
        return "hold on or hold off";
    }
    if (!device_count) {
        return "no device";
    }
    if (device_hold(on)) {
        return "the module refused";
    }
    reply_bool(reply, "ok", true);
    return NULL;
}

static const char *command_waiters(const struct words *words,
                                   struct reply *reply)
{
    (void)words;
    reply_bool(reply, "ok", true);
    reply_number(reply, "waiters", device_waiters());
    return NULL;
}

static const char *command_dirty(const struct words *words,
                                 struct reply *reply)
{
    uint32_t mib = 0, rate = 0;
    const char *error = NULL;

    if (words_has(words, "stop")) {
        dirty_stop();
    } else if (!words_has(words, "start")) {
        error = "dirty start or dirty stop";
    } else if (!words_number(words, "mb", &mib) ||
               !words_number(words, "rate", &rate)) {
        error = "mb and rate take numbers";
    } else {
        error = dirty_start(mib, rate);
    }
    if (!error) {
        reply_bool(reply, "ok", true);
    }
    return error;
}

static void reply_device(struct reply *reply, const struct device *device)
{
    static const struct {
        const char *name;
        unsigned int offset;
    } counters[] = {
        { "started", REG_STARTED }, { "completed", REG_COMPLETED },
        { "aborted", REG_ABORTED }, { "faults", REG_FAULTS },
        { "retried", REG_RETRIED }, { "trapped", REG_TRAPPED },
        { "replayed", REG_REPLAYED }, { "bad_desc", REG_BAD_DESC },
        { "duplicates", REG_DUPLICATES }, { "gaps", REG_GAPS },
        { "bad_responses", REG_BAD_RESPONSES },
    };

    reply_open(reply, "device", '{');
    reply_number(reply, "status", device_reg(device, REG_STATUS));
    reply_number(reply, "next", device_reg(device, REG_NEXT));
    reply_number(reply, "inflight", device_reg(device, REG_INFLIGHT));
    reply_number(reply, "interrupts", device_interrupts(device));
    for (unsigned int i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
        reply_number(reply, counters[i].name,
                     device_counter(device, counters[i].offset));
    }
    reply_close(reply, '}');
}

static const char *command_status(const struct words *words,
                                  struct reply *reply)
{
    struct device *device = &devices[0];
    struct totals totals;
    const char *error = NULL;

    if (words->count > 1) {
        error = parse_device(words, 1, &device);
    } else if (!device_count) {
        error = "no device";
    }
    if (error) {
        return error;
    }
    device_totals(device, &totals);
    reply_bool(reply, "ok", true);
    reply_number(reply, "pid", (uint64_t)getpid());
    reply_number(reply, "pasid", device->pasid);
    reply_number(reply, "next", totals.submitted);
    reply_number(reply, "submitted", totals.submitted);
    reply_number(reply, "completed", totals.completed);
    reply_number(reply, "ok_status", totals.good);
    reply_number(reply, "aborted", totals.aborted);
    reply_bool(reply, "load", load_running(device->index));
    reply_bool(reply, "load_full", load_full(device->index));
    reply_device(reply, device);
    return NULL;
}

static void add_verdict(struct verdict *sum, const struct verdict *one)
{
    sum->checked += one->checked;
    sum->wrong_data += one->wrong_data;
    sum->wrong_crc += one->wrong_crc;
    sum->wrong_record += one->wrong_record;
    sum->not_once += one->not_once;
    sum->out_of_order += one->out_of_order;
    sum->aborted += one->aborted;
    sum->missing += one->missing;
    if (one->first_wrong < sum->first_wrong) {
        sum->first_wrong = one->first_wrong;
    }
}

static const char *command_verify(const struct words *words,
                                  struct reply *reply)
{
    struct verdict sum = { .first_wrong = NO_REQUEST };
    struct device *first = &devices[0];
    unsigned int count = device_count;

    if (words->count > 1) {
        const char *error = parse_device(words, 1, &first);

        if (error) {
            return error;
        }
        count = 1;
    }
    for (unsigned int i = 0; i < count; i++) {
        struct verdict one;

        check_verdict(&first[i], &one);
        add_verdict(&sum, &one);
    }
    reply_bool(reply, "ok", sum.first_wrong == NO_REQUEST && !sum.aborted &&
                            !sum.missing);
    reply_number(reply, "checked", sum.checked);
    reply_number(reply, "wrong_data", sum.wrong_data);
    reply_number(reply, "wrong_crc", sum.wrong_crc);
    reply_number(reply, "wrong_record", sum.wrong_record);
    reply_number(reply, "not_once", sum.not_once);
    reply_number(reply, "out_of_order", sum.out_of_order);
    reply_number(reply, "aborted", sum.aborted);
    reply_number(reply, "missing", sum.missing);
    if (sum.first_wrong != NO_REQUEST) {
        reply_number(reply, "first_wrong", sum.first_wrong);
    }
    return NULL;
}

static const char *command_poweroff(const struct words *words,
                                    struct reply *reply)
{
    (void)words;
    (void)reply;
    reboot(RB_POWER_OFF);
    return "the kernel refused";
}

static const struct {
    const char *name;
    command *run;
} commands[] = {
    { "hello", command_hello }, { "dma", command_dma },
    { "load", command_load }, { "half", command_half },
    { "finish", command_finish }, { "peek", command_peek },
    { "hold", command_hold },
    { "waiters", command_waiters }, { "dirty", command_dirty },
    { "status", command_status }, { "verify", command_verify },
    { "poweroff", command_poweroff },
};

static const char *dispatch(const struct words *words, struct reply *reply)
{
    for (unsigned int i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(words->word[0], commands[i].name) == 0) {
            return commands[i].run(words, reply);
        }
    }
    return "unknown command";
}

bool command_run(const struct words *words, struct reply *reply)
{
    const char *error;

    reply_begin(reply);
    if (words->count == 0) {
        error = "empty command";
    } else if (strcmp(words->word[0], "wait") == 0) {
        error = wait_begin(words);
        if (!error) {
            return false;
        }
    } else {
        error = dispatch(words, reply);
    }
    if (error) {
        reply_bool(reply, "ok", false);
        reply_string(reply, "error", error);
    }
    if (words->id) {
        reply_string(reply, "id", words->id);
    }
    reply_end(reply);
    return true;
}
