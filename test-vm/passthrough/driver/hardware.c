// SPDX-License-Identifier: GPL-2.0
/* The registers of the test device; docs/specs/vsva-testdev.rst in QEMU. */
#include <linux/delay.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/jiffies.h>
#include <linux/pci.h>
#include <linux/sched/signal.h>

#include "vsva.h"

#define REG_CTRL		0x08
#define CTRL_ENABLE		BIT(0)
#define CTRL_RESET		BIT(1)

#define HOST_CTRL		0x00
#define HOST_CTRL_QUIESCE	BIT(0)
#define HOST_STATUS		0x04
#define HOST_STATUS_STOPPED	BIT(0)
#define HOST_NEXT		0x08
#define HOST_COUNTERS		0x20

#define POLL_US			500

static void __iomem *bar(struct vsva_vf *vf, int index)
{
	return vfio_pci_core_get_iomap(&vf->core, index);
}

/*
 * The guest may have switched the memory of the device off, as it does before
 * it has a driver; a device in that state has to be migrated, too.
 */
static u16 memory_begin(struct vsva_vf *vf)
{
	struct pci_dev *pdev = vf->core.pdev;
	u16 command;

	down_write(&vf->core.memory_lock);
	pci_read_config_word(pdev, PCI_COMMAND, &command);
	if (!(command & PCI_COMMAND_MEMORY))
		pci_write_config_word(pdev, PCI_COMMAND,
				      command | PCI_COMMAND_MEMORY);
	return command;
}

static void memory_end(struct vsva_vf *vf, u16 command)
{
	if (!(command & PCI_COMMAND_MEMORY))
		pci_write_config_word(vf->core.pdev, PCI_COMMAND, command);
	up_write(&vf->core.memory_lock);
}

static void set_quiesce(struct vsva_vf *vf, bool on)
{
	u16 command = memory_begin(vf);

	writel(on ? HOST_CTRL_QUIESCE : 0, bar(vf, VSVA_BAR_HOST) + HOST_CTRL);
	memory_end(vf, command);
}

static bool is_stopped(struct vsva_vf *vf)
{
	u16 command = memory_begin(vf);
	u32 status = readl(bar(vf, VSVA_BAR_HOST) + HOST_STATUS);

	memory_end(vf, command);
	return (status & HOST_STATUS_STOPPED) && !READ_ONCE(vf->fail.stop);
}

/*
 * A DMA that is stalled by a page fault ends when the guest has answered, so
 * this returns only if the guest runs, or nothing is outstanding.
 */
int vsva_hw_stop(struct vsva_vf *vf)
{
	unsigned long end = jiffies + msecs_to_jiffies(vsva_stop_timeout_ms);
	int ret = 0;

	set_quiesce(vf, true);
	while (!is_stopped(vf)) {
		if (READ_ONCE(vf->deferred_reset))
			return -EIO;
		if (fatal_signal_pending(current))
			ret = -EINTR;
		else if (time_after(jiffies, end))
			ret = -ETIMEDOUT;
		if (ret) {
			set_quiesce(vf, false);
			pci_err(vf->core.pdev, "not stopped: %pe\n",
				ERR_PTR(ret));
			return ret;
		}
		usleep_range(POLL_US, 2 * POLL_US);
	}
	return 0;
}

void vsva_hw_run(struct vsva_vf *vf)
{
	set_quiesce(vf, false);
}

void vsva_hw_save(struct vsva_vf *vf, struct vsva_state *state)
{
	u16 command = memory_begin(vf);
	void __iomem *host = bar(vf, VSVA_BAR_HOST);
	unsigned int i;
	u32 ctrl;

	vsva_header_fill(&state->header);
	ctrl = readl(bar(vf, VSVA_BAR_REGS) + REG_CTRL) & CTRL_ENABLE;
	state->ctrl = cpu_to_le32(ctrl);
	state->next = cpu_to_le64(lo_hi_readq(host + HOST_NEXT));
	for (i = 0; i < VSVA_COUNTERS; i++)
		state->counters[i] = cpu_to_le64(lo_hi_readq(host +
						 HOST_COUNTERS + 8 * i));
	memcpy_fromio(state->portal, bar(vf, VSVA_BAR_PORTAL),
		      VSVA_PORTAL_SIZE);
	memory_end(vf, command);
}

void vsva_hw_load(struct vsva_vf *vf, const struct vsva_state *state)
{
	u16 command = memory_begin(vf);
	void __iomem *host = bar(vf, VSVA_BAR_HOST);
	void __iomem *ctrl = bar(vf, VSVA_BAR_REGS) + REG_CTRL;
	unsigned int i;

	writel(CTRL_RESET, ctrl);
	memcpy_toio(bar(vf, VSVA_BAR_PORTAL), state->portal, VSVA_PORTAL_SIZE);
	for (i = 0; i < VSVA_COUNTERS; i++)
		lo_hi_writeq(le64_to_cpu(state->counters[i]),
			     host + HOST_COUNTERS + 8 * i);
	lo_hi_writeq(le64_to_cpu(state->next), host + HOST_NEXT);
	writel(le32_to_cpu(state->ctrl) & CTRL_ENABLE, ctrl);
	memory_end(vf, command);
}
