// SPDX-License-Identifier: GPL-2.0
/*
 * Gives a process the vsva test device: shared virtual addressing with page
 * faults, the device's portal and registers, and memory whose page faults can
 * be held back for as long as a test wants.
 */
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/idr.h>
#include <linux/interrupt.h>
#include <linux/iommu.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "vsva_guest.h"

#define VSVA_BAR_REGS	0
#define VSVA_BAR_PORTAL	2

struct vsva_device {
	struct pci_dev *pdev;
	struct miscdevice misc;
	char name[16];
	int minor;
	atomic_t interrupts;
};

struct vsva_file {
	struct vsva_device *vdev;
	struct mutex lock;		/* sva */
	struct iommu_sva *sva;
	wait_queue_head_t released;
	bool hold;
	atomic_t waiters;
};

static DEFINE_IDA(vsva_ids);

static int vsva_open(struct inode *inode, struct file *filp)
{
	struct miscdevice *misc = filp->private_data;
	struct vsva_file *vf;

	vf = kzalloc(sizeof(*vf), GFP_KERNEL);
	if (!vf)
		return -ENOMEM;
	vf->vdev = container_of(misc, struct vsva_device, misc);
	mutex_init(&vf->lock);
	init_waitqueue_head(&vf->released);
	filp->private_data = vf;
	return 0;
}

static void vsva_set_hold(struct vsva_file *vf, bool hold)
{
	WRITE_ONCE(vf->hold, hold);
	if (!hold)
		wake_up_all(&vf->released);
}

/*
 * Held faults keep the address space and with it the mapping's reference to
 * the file alive, so release() would come too late to let them go.
 */
static int vsva_flush(struct file *filp, fl_owner_t id)
{
	vsva_set_hold(filp->private_data, false);
	return 0;
}

static int vsva_release(struct inode *inode, struct file *filp)
{
	struct vsva_file *vf = filp->private_data;

	if (vf->sva)
		iommu_sva_unbind_device(vf->sva);
	kfree(vf);
	return 0;
}

static long vsva_bind(struct vsva_file *vf, u32 __user *arg)
{
	struct iommu_sva *sva;
	u32 pasid;
	long ret = 0;

	mutex_lock(&vf->lock);
	if (!vf->sva) {
		sva = iommu_sva_bind_device(&vf->vdev->pdev->dev, current->mm);
		if (IS_ERR(sva)) {
			ret = PTR_ERR(sva);
			goto out;
		}
		vf->sva = sva;
	}
	pasid = iommu_sva_get_pasid(vf->sva);
	if (pasid == IOMMU_PASID_INVALID)
		ret = -ENODEV;
	else
		ret = put_user(pasid, arg);
out:
	mutex_unlock(&vf->lock);
	return ret;
}

static long vsva_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	struct vsva_file *vf = filp->private_data;
	u32 __user *uarg = (u32 __user *)arg;
	u32 value;

	switch (cmd) {
	case VSVA_IOC_BIND:
		return vsva_bind(vf, uarg);
	case VSVA_IOC_HOLD:
		if (get_user(value, uarg))
			return -EFAULT;
		if (value > 1)
			return -EINVAL;
		vsva_set_hold(vf, value);
		return 0;
	case VSVA_IOC_WAITERS:
		return put_user((u32)atomic_read(&vf->waiters), uarg);
	case VSVA_IOC_INTERRUPTS:
		value = atomic_read(&vf->vdev->interrupts);
		return put_user(value, uarg);
	default:
		return -ENOTTY;
	}
}

static vm_fault_t vsva_held_fault(struct vm_fault *vmf)
{
	struct vsva_file *vf = vmf->vma->vm_private_data;
	u64 address = vmf->address & PAGE_MASK;
	struct page *page;
	u64 *words;
	unsigned int i;
	int killed;

	atomic_inc(&vf->waiters);
	killed = wait_event_killable(vf->released, !READ_ONCE(vf->hold));
	atomic_dec(&vf->waiters);
	if (killed)
		return VM_FAULT_SIGBUS;

	page = alloc_page(GFP_HIGHUSER);
	if (!page)
		return VM_FAULT_OOM;
	words = kmap_local_page(page);
	for (i = 0; i < PAGE_SIZE / sizeof(*words); i++)
		words[i] = vsva_pattern_word(address + i * sizeof(*words));
	kunmap_local(words);
	vmf->page = page;
	return 0;
}

static const struct vm_operations_struct vsva_held_ops = {
	.fault = vsva_held_fault,
};

static int vsva_mmap_bar(struct vsva_file *vf, struct vm_area_struct *vma,
			 int bar, u64 base)
{
	struct pci_dev *pdev = vf->vdev->pdev;

	vma->vm_pgoff -= base >> PAGE_SHIFT;
	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	vm_flags_set(vma, VM_DONTCOPY);
	return vm_iomap_memory(vma, pci_resource_start(pdev, bar),
			       pci_resource_len(pdev, bar));
}

static int vsva_mmap(struct file *filp, struct vm_area_struct *vma)
{
	struct vsva_file *vf = filp->private_data;
	u64 offset = (u64)vma->vm_pgoff << PAGE_SHIFT;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (offset >= VSVA_MMAP_REGS)
		return vsva_mmap_bar(vf, vma, VSVA_BAR_REGS, VSVA_MMAP_REGS);
	if (offset < VSVA_MMAP_HELD)
		return vsva_mmap_bar(vf, vma, VSVA_BAR_PORTAL, VSVA_MMAP_PORTAL);

	vma->vm_ops = &vsva_held_ops;
	vma->vm_private_data = vf;
	vm_flags_set(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP);
	return 0;
}

static const struct file_operations vsva_fops = {
	.owner		= THIS_MODULE,
	.open		= vsva_open,
	.flush		= vsva_flush,
	.release	= vsva_release,
	.unlocked_ioctl	= vsva_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.mmap		= vsva_mmap,
};

static int vsva_enable_sva(struct device *dev)
{
	int ret;

	ret = iommu_dev_enable_feature(dev, IOMMU_DEV_FEAT_IOPF);
	if (ret)
		return dev_err_probe(dev, ret, "no I/O page faults\n");
	ret = iommu_dev_enable_feature(dev, IOMMU_DEV_FEAT_SVA);
	if (ret) {
		iommu_dev_disable_feature(dev, IOMMU_DEV_FEAT_IOPF);
		return dev_err_probe(dev, ret, "no shared virtual addressing\n");
	}
	return 0;
}

static void vsva_disable_sva(struct device *dev)
{
	iommu_dev_disable_feature(dev, IOMMU_DEV_FEAT_SVA);
	iommu_dev_disable_feature(dev, IOMMU_DEV_FEAT_IOPF);
}

static irqreturn_t vsva_interrupt(int irq, void *data)
{
	struct vsva_device *vdev = data;

	atomic_inc(&vdev->interrupts);
	return IRQ_HANDLED;
}

/* It may have none. */
static int vsva_count_interrupts(struct vsva_device *vdev)
{
	struct pci_dev *pdev = vdev->pdev;

	if (pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSI) < 0)
		return 0;
	return devm_request_irq(&pdev->dev, pci_irq_vector(pdev, 0),
				vsva_interrupt, 0, vdev->name, vdev);
}

static int vsva_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct vsva_device *vdev;
	int ret;

	vdev = devm_kzalloc(dev, sizeof(*vdev), GFP_KERNEL);
	if (!vdev)
		return -ENOMEM;
	vdev->pdev = pdev;

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	ret = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	pci_set_master(pdev);

	ret = vsva_enable_sva(dev);
	if (ret)
		return ret;

	vdev->minor = ida_alloc(&vsva_ids, GFP_KERNEL);
	if (vdev->minor < 0) {
		ret = vdev->minor;
		goto disable_sva;
	}
	snprintf(vdev->name, sizeof(vdev->name), "vsva%d", vdev->minor);
	ret = vsva_count_interrupts(vdev);
	if (ret)
		goto free_id;
	vdev->misc.minor = MISC_DYNAMIC_MINOR;
	vdev->misc.name = vdev->name;
	vdev->misc.parent = dev;
	vdev->misc.fops = &vsva_fops;
	ret = misc_register(&vdev->misc);
	if (ret)
		goto free_id;

	pci_set_drvdata(pdev, vdev);
	dev_info(dev, "%s\n", vdev->name);
	return 0;

free_id:
	ida_free(&vsva_ids, vdev->minor);
disable_sva:
	vsva_disable_sva(dev);
	return ret;
}

static void vsva_remove(struct pci_dev *pdev)
{
	struct vsva_device *vdev = pci_get_drvdata(pdev);

	misc_deregister(&vdev->misc);
	ida_free(&vsva_ids, vdev->minor);
	vsva_disable_sva(&pdev->dev);
	pci_clear_master(pdev);
}

static const struct pci_device_id vsva_ids_table[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_HUAWEI, 0xa250) },
	{ }
};
MODULE_DEVICE_TABLE(pci, vsva_ids_table);

/* Open files pin the module, and with it, without unbind, the devices. */
static struct pci_driver vsva_driver = {
	.name		= "vsva_guest",
	.id_table	= vsva_ids_table,
	.probe		= vsva_probe,
	.remove		= vsva_remove,
	.driver		= { .suppress_bind_attrs = true },
};
module_pci_driver(vsva_driver);

MODULE_DESCRIPTION("Shared virtual addressing for the vsva test device");
MODULE_LICENSE("GPL");
