// SPDX-License-Identifier: GPL-2.0
/*
 * The least that a driver of the HSM can do, to measure the real one against.
 *
 * It binds to the function that azihsm is for, and has one ioctl that does
 * nothing, and one that sends a command through one queue and sleeps until the
 * interrupt: no sessions, no timeouts, no recovery, one slot for each open file.
 * It is for the virtual device and for benchmarks only.
 */
#include <linux/bitmap.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/uaccess.h>

#include "floor.h"

/* Documentation/device.rst 2 and 3.2. */
#define REG_CC			0x14
#define   CC_EN			BIT(0)
#define   CC_ENTRY_SIZES	0x67460000
#define REG_CSTS		0x1c
#define   CSTS_RDY		BIT(0)
#define REG_AQA			0x24
#define REG_ASQ			0x28
#define REG_ACQ			0x30
#define SQ_DOORBELL(queue)	(8 * (queue))
#define CQ_DOORBELL(queue)	(8 * (queue) + 4)

#define OP_CREATE_SQ		0x01
#define OP_CREATE_CQ		0x05
#define CONTIGUOUS		BIT(0)
#define INTERRUPTS		BIT(1)

#define QUEUE			1
#define VECTOR			1
#define ENTRIES			(PAGE_SIZE / sizeof(struct floor_sqe))
/* Entries that are consumed, at most, with one doorbell. */
#define BATCH			(ENTRIES / 4)
/* With those that were not given back yet there is room for all of them. */
#define SLOTS			(ENTRIES / 2)
#define TRIES			1000

struct floor_sqe {
	__le32 dw[16];
};

struct floor_cqe {
	__le64 result;
	__le16 head;
	__le16 queue;
	__le16 cid;
	__le16 status;
};

struct floor_slot {
	struct completion done;
	/* One page each that the device reads and writes. */
	void *memory;
	dma_addr_t bus;
};

struct floor_ring {
	struct floor_sqe *sq;
	struct floor_cqe *cq;
	dma_addr_t sq_bus;
	dma_addr_t cq_bus;
	u32 tail;
	u32 head;
	u16 phase;
};

struct floor {
	struct device *dev;
	void __iomem *registers;
	void __iomem *doorbells;
	struct floor_ring admin;
	struct floor_ring ring;
	/* Protects the tail of @ring. */
	spinlock_t lock;
	struct floor_slot slots[SLOTS];
	DECLARE_BITMAP(taken, SLOTS);
	struct miscdevice misc;
};

struct floor_file {
	struct floor *floor;
	unsigned int slot;
};

static int floor_alloc_ring(struct floor *floor, struct floor_ring *ring)
{
	ring->phase = 1;
	ring->sq = dmam_alloc_coherent(floor->dev, PAGE_SIZE, &ring->sq_bus, GFP_KERNEL);
	ring->cq = dmam_alloc_coherent(floor->dev, PAGE_SIZE, &ring->cq_bus, GFP_KERNEL);
	return ring->sq && ring->cq ? 0 : -ENOMEM;
}

static void floor_submit(struct floor *floor, struct floor_ring *ring, u32 queue,
			 const struct floor_sqe *sqe)
{
	ring->sq[ring->tail] = *sqe;
	if (++ring->tail == ENTRIES)
		ring->tail = 0;
	writel(ring->tail, floor->doorbells + SQ_DOORBELL(queue));
}

static bool floor_is_done(const struct floor_ring *ring)
{
	u16 status = le16_to_cpu(READ_ONCE(ring->cq[ring->head].status));

	if ((status & 1) != ring->phase)
		return false;
	dma_rmb();
	return true;
}

static void floor_consume(struct floor_ring *ring)
{
	if (++ring->head == ENTRIES) {
		ring->head = 0;
		ring->phase ^= 1;
	}
}

static irqreturn_t floor_interrupt(int irq, void *data)
{
	struct floor *floor = data;
	struct floor_ring *ring = &floor->ring;
	unsigned int count = 0;

	while (floor_is_done(ring)) {
		u16 cid = le16_to_cpu(ring->cq[ring->head].cid);

		floor_consume(ring);
		if (cid < SLOTS)
			complete(&floor->slots[cid].done);
		if (++count % BATCH == 0)
			writel(ring->head, floor->doorbells + CQ_DOORBELL(QUEUE));
	}
	if (count % BATCH)
		writel(ring->head, floor->doorbells + CQ_DOORBELL(QUEUE));
	return IRQ_RETVAL(count);
}

static int floor_admin(struct floor *floor, u32 opcode, u64 prp, u32 dw11)
{
	struct floor_ring *ring = &floor->admin;
	struct floor_sqe sqe = {};
	int try;

	sqe.dw[0] = cpu_to_le32(opcode);
	sqe.dw[6] = cpu_to_le32(lower_32_bits(prp));
	sqe.dw[7] = cpu_to_le32(upper_32_bits(prp));
	sqe.dw[10] = cpu_to_le32((ENTRIES - 1) << 16 | QUEUE);
	sqe.dw[11] = cpu_to_le32(dw11);
	floor_submit(floor, ring, 0, &sqe);
	for (try = 0; try < TRIES; try++) {
		if (floor_is_done(ring)) {
			u16 status = le16_to_cpu(ring->cq[ring->head].status) >> 1;

			floor_consume(ring);
			writel(ring->head, floor->doorbells + CQ_DOORBELL(0));
			return status ? -EIO : 0;
		}
		msleep(20);
	}
	return -ETIMEDOUT;
}

static int floor_wait_ready(struct floor *floor, u32 ready)
{
	int try;

	for (try = 0; try < TRIES; try++) {
		if ((readl(floor->registers + REG_CSTS) & CSTS_RDY) == ready)
			return 0;
		msleep(20);
	}
	return -ETIMEDOUT;
}

static void floor_stop(void *data)
{
	struct floor *floor = data;

	writel(0, floor->registers + REG_CC);
	if (floor_wait_ready(floor, 0))
		dev_err(floor->dev, "does not stop\n");
	pci_clear_master(to_pci_dev(floor->dev));
}

static int floor_start(struct floor *floor)
{
	struct floor_ring *admin = &floor->admin;
	int ret;

	writel((ENTRIES - 1) << 16 | (ENTRIES - 1), floor->registers + REG_AQA);
	lo_hi_writeq(admin->sq_bus, floor->registers + REG_ASQ);
	lo_hi_writeq(admin->cq_bus, floor->registers + REG_ACQ);
	writel(CC_ENTRY_SIZES | CC_EN, floor->registers + REG_CC);
	ret = floor_wait_ready(floor, CSTS_RDY);
	if (!ret)
		ret = floor_admin(floor, OP_CREATE_CQ, floor->ring.cq_bus,
				  VECTOR << 16 | INTERRUPTS | CONTIGUOUS);
	if (!ret)
		ret = floor_admin(floor, OP_CREATE_SQ, floor->ring.sq_bus,
				  QUEUE << 16 | CONTIGUOUS);
	return ret;
}

static int floor_open(struct inode *inode, struct file *filp)
{
	struct floor *floor = container_of(filp->private_data, struct floor, misc);
	struct floor_file *file = kzalloc_obj(*file);

	if (!file)
		return -ENOMEM;
	file->floor = floor;
	do {
		file->slot = find_first_zero_bit(floor->taken, SLOTS);
		if (file->slot >= SLOTS) {
			kfree(file);
			return -EBUSY;
		}
	} while (test_and_set_bit(file->slot, floor->taken));
	filp->private_data = file;
	return 0;
}

static int floor_release(struct inode *inode, struct file *filp)
{
	struct floor_file *file = filp->private_data;

	clear_bit(file->slot, file->floor->taken);
	kfree(file);
	return 0;
}

/* A command of the size that the driver's smallest has, there and back. */
static long floor_wake(struct floor_file *file, void __user *arg)
{
	struct floor *floor = file->floor;
	struct floor_slot *slot = &floor->slots[file->slot];
	u64 response = slot->bus + PAGE_SIZE;
	struct floor_sqe sqe = {};
	unsigned long flags;

	if (copy_from_user(slot->memory, arg, FLOOR_BYTES))
		return -EFAULT;
	sqe.dw[0] = cpu_to_le32(file->slot << 16);
	sqe.dw[1] = cpu_to_le32(FLOOR_BYTES);
	sqe.dw[2] = cpu_to_le32(lower_32_bits(slot->bus));
	sqe.dw[3] = cpu_to_le32(upper_32_bits(slot->bus));
	sqe.dw[6] = cpu_to_le32(FLOOR_BYTES);
	sqe.dw[7] = cpu_to_le32(lower_32_bits(response));
	sqe.dw[8] = cpu_to_le32(upper_32_bits(response));

	spin_lock_irqsave(&floor->lock, flags);
	floor_submit(floor, &floor->ring, QUEUE, &sqe);
	spin_unlock_irqrestore(&floor->lock, flags);
	wait_for_completion(&slot->done);

	if (copy_to_user(arg, slot->memory + PAGE_SIZE, FLOOR_BYTES))
		return -EFAULT;
	return 0;
}

static long floor_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case FLOOR_NULL:
		return 0;
	case FLOOR_WAKE:
		return floor_wake(filp->private_data, (void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations floor_fops = {
	.owner = THIS_MODULE,
	.open = floor_open,
	.release = floor_release,
	.unlocked_ioctl = floor_ioctl,
};

static void floor_deregister(void *data)
{
	struct floor *floor = data;

	misc_deregister(&floor->misc);
}

static void floor_free_vectors(void *data)
{
	pci_free_irq_vectors(data);
}

static int floor_map(struct floor *floor, struct pci_dev *pdev)
{
	floor->registers = pcim_iomap_region(pdev, 0, "floor");
	if (IS_ERR(floor->registers))
		return PTR_ERR(floor->registers);
	floor->doorbells = pcim_iomap_region(pdev, 2, "floor");
	return PTR_ERR_OR_ZERO(floor->doorbells);
}

static int floor_alloc(struct floor *floor)
{
	int ret = floor_alloc_ring(floor, &floor->admin);
	unsigned int i;

	if (!ret)
		ret = floor_alloc_ring(floor, &floor->ring);
	for (i = 0; !ret && i < SLOTS; i++) {
		struct floor_slot *slot = &floor->slots[i];

		init_completion(&slot->done);
		slot->memory = dmam_alloc_coherent(floor->dev, 2 * PAGE_SIZE, &slot->bus,
						   GFP_KERNEL);
		if (!slot->memory)
			ret = -ENOMEM;
	}
	return ret;
}

static int floor_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct floor *floor;
	int ret;

	floor = devm_kzalloc(dev, sizeof(*floor), GFP_KERNEL);
	if (!floor)
		return -ENOMEM;
	floor->dev = dev;
	spin_lock_init(&floor->lock);
	ret = pcim_enable_device(pdev);
	if (!ret)
		ret = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (!ret)
		ret = floor_map(floor, pdev);
	if (!ret)
		ret = floor_alloc(floor);
	if (ret)
		return ret;

	ret = pci_alloc_irq_vectors(pdev, VECTOR + 1, VECTOR + 1, PCI_IRQ_MSIX);
	if (ret < 0)
		return ret;
	ret = devm_add_action_or_reset(dev, floor_free_vectors, pdev);
	if (!ret)
		ret = devm_request_irq(dev, pci_irq_vector(pdev, VECTOR), floor_interrupt, 0,
				       "floor", floor);
	if (ret)
		return ret;

	pci_set_master(pdev);
	ret = devm_add_action_or_reset(dev, floor_stop, floor);
	if (!ret)
		ret = floor_start(floor);
	if (ret)
		return ret;

	floor->misc.minor = MISC_DYNAMIC_MINOR;
	floor->misc.name = "azihsm-floor";
	floor->misc.fops = &floor_fops;
	ret = misc_register(&floor->misc);
	if (ret)
		return ret;
	return devm_add_action_or_reset(dev, floor_deregister, floor);
}

static const struct pci_device_id floor_ids[] = {
	{ PCI_DEVICE(0x1414, 0xc003) },
	{}
};

static struct pci_driver floor_driver = {
	.name = "azihsm-floor",
	.id_table = floor_ids,
	.probe = floor_probe,
};
module_pci_driver(floor_driver);

MODULE_DESCRIPTION("The least that a driver of the Azure Integrated HSM can do");
MODULE_LICENSE("GPL");
